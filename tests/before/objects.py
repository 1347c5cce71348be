"""The objects of a namespace, taken from one apiserver and put into another one."""

from __future__ import annotations

import base64
import json
from typing import Any

from harness.control_plane.paths import collection_of
from harness.control_plane.plane import ControlPlane
from psr_operator.api import KINDS

Object = dict[str, Any]
TAKEN = (*KINDS, "Secret", "ConfigMap", "Service", "PodDisruptionBudget", "Deployment", "Job", "Pod")
ENDED = ("Succeeded", "Failed")
SOMEBODY_ELSE = "psr.dev/recorded"
"""Manages the Jobs that have ended, so that no Job controller makes pods for them again."""
NOWHERE = "recorded"
"""Name of a node that is not there: nobody starts the pods that have ended."""
DUMMY_KEY = base64.b64encode(b"a key of a test").decode()
FLEETING = ("uid", "resourceVersion", "creationTimestamp", "generation", "ownerReferences")
"""Metadata that an apiserver gives or that names other objects."""


def take(plane: ControlPlane, namespace: str) -> list[Object]:
    """Every object that a run left in a namespace, as the apiserver holds it; owners come before what they own."""
    objects: list[Object] = []
    for kind in TAKEN:
        for item in plane.request("GET", collection_of(kind, namespace))["items"]:
            if not item["metadata"].get("ownerReferences") and kind not in KINDS:
                continue  # the cluster's own
            item["metadata"].pop("managedFields", None)
            if kind == "Secret":
                item["data"] = dict.fromkeys(item["data"], DUMMY_KEY)
            objects.append({"kind": kind, **item})
    return objects


def put(plane: ControlPlane, namespace: str, objects: list[Object]) -> dict[str, str]:
    """Put objects into a namespace of the same name.

    Jobs that have ended, and their pods, have ended at once. Whatever runs starts anew: its controller makes its pods.

    Returns:
        The new uid of each old one.
    """
    uids: dict[str, str] = {}
    waiting = [item for item in objects if item["kind"] != "Pod" or item["status"]["phase"] in ENDED]
    waiting = [item for item in waiting if item["kind"] != "Pod" or "psr.dev/server" not in item["metadata"]["labels"]]
    while waiting:
        item = next(item for item in waiting if all(owner["uid"] in uids for owner in _owners(item)))
        waiting.remove(item)
        made = plane.request("POST", collection_of(item["kind"], namespace), _body(item, uids))
        uids[item["metadata"]["uid"]] = made["metadata"]["uid"]
        if item["kind"] in (*KINDS, "Pod") or _ended(item):
            path = f"{collection_of(item['kind'], namespace)}/{item['metadata']['name']}/status"
            status = _status(item, made["metadata"]["generation"]) if item["kind"] in KINDS else item["status"]
            plane.request("PATCH", path, {"status": status}, content="application/merge-patch+json")
    return uids


def _owners(item: Object) -> list[Object]:
    owners: list[Object] = item["metadata"].get("ownerReferences", [])
    return owners


def _ended(item: Object) -> bool:
    conditions = item.get("status", {}).get("conditions", ())
    return item["kind"] == "Job" and any(
        one["type"] in ("Complete", "Failed") and one["status"] == "True" for one in conditions
    )


def _body(item: Object, uids: dict[str, str]) -> Object:
    """What is to be made of an object: with the owners' new uids wherever the old ones stand."""
    meta = {key: value for key, value in item["metadata"].items() if key not in FLEETING}
    meta["ownerReferences"] = _owners(item)
    body: Object = {**item, "metadata": meta}
    body.pop("status", None)
    if item["kind"] == "Job":
        body = _job(body, item["metadata"]["uid"])
        if _ended(item):
            body["spec"]["managedBy"] = SOMEBODY_ELSE
    if item["kind"] == "Pod":
        body["spec"] = {**body["spec"], "nodeName": NOWHERE}
    text = json.dumps(body)
    for old, new in uids.items():
        text = text.replace(old, new)
    item: Object = json.loads(text)
    return item


def _job(body: Object, uid: str) -> Object:
    """A Job without what the apiserver adds: a selector, and labels with the Job's own uid."""
    spec = {key: value for key, value in body["spec"].items() if key != "selector"}
    template = json.loads(json.dumps(spec["template"]))
    for meta in (template["metadata"], body["metadata"]):
        own = {key: value for key, value in meta["labels"].items() if value != uid and not key.endswith("job-name")}
        meta["labels"] = own
    return {**body, "spec": {**spec, "template": template}}


def _status(item: Object, generation: int) -> Object:
    """The status of an object of ours for its new generation, where it is for its newest."""

    def renewed(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                key: generation if key == "observedGeneration" and one == newest else renewed(one)
                for key, one in value.items()
            }
        return [renewed(one) for one in value] if isinstance(value, list) else value

    newest = item["metadata"]["generation"]
    status: Object = renewed(item.get("status", {}))
    return status
