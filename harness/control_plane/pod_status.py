"""What a kubelet writes of a pod and gives to its container: statuses, conditions, variables.

A pod may have containers that others injected; they run and end with the one that is played.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

PLAYED = ("stage", "server")
"""Names of the container that is played; in pods of others, the first one."""


def played_container(pod: Mapping[str, Any]) -> Mapping[str, Any]:
    """The container of a pod that the script is about."""
    containers: list[dict[str, Any]] = pod["spec"]["containers"]
    return next((item for item in containers if item["name"] in PLAYED), containers[0])


def environment_of(pod: Mapping[str, Any], address: str) -> dict[str, str]:
    """The played container's variables, as a kubelet gives them; those from Secrets and ConfigMaps are left out."""
    meta = pod["metadata"]
    fields = {
        "metadata.name": meta["name"],
        "metadata.namespace": meta["namespace"],
        "metadata.uid": meta["uid"],
        "status.podIP": address,
        "spec.nodeName": pod["spec"].get("nodeName", ""),
        **{f"metadata.annotations['{key}']": value for key, value in meta.get("annotations", {}).items()},
        **{f"metadata.labels['{key}']": value for key, value in meta.get("labels", {}).items()},
    }
    variables: dict[str, str] = {}
    for item in played_container(pod).get("env", []):
        source = item.get("valueFrom")
        if source is None:
            variables[item["name"]] = expand(item.get("value", ""), variables)
        elif "fieldRef" in source:
            variables[item["name"]] = fields.get(source["fieldRef"]["fieldPath"], "")
    return variables


def expand(text: str, known: Mapping[str, str]) -> str:
    """`$(NAME)` by its value where it is known, `$$` by `$`."""

    def value(match: re.Match[str]) -> str:
        return "$" if match[0] == "$$" else known.get(match[1], match[0])

    return re.sub(r"\$\$|\$\(([^()]+)\)", value, text)


def container_status(
    item: Mapping[str, Any], state: dict[str, Any], *, ready: bool, restarts: int, last: dict[str, Any]
) -> dict[str, Any]:
    """The status of a container of a pod's spec."""
    return {
        "name": item["name"],
        "image": item["image"],
        "imageID": f"player://{item['image']}",
        "containerID": f"player://{restarts}",
        "ready": ready,
        "started": "running" in state,
        "restartCount": restarts,
        "state": state,
        "lastState": last,
    }


def condition(kind: str, status: bool, reason: str = "") -> dict[str, Any]:
    """A condition that has just become so."""
    present = {"type": kind, "status": str(status), "lastTransitionTime": now()}
    return {**present, "reason": reason} if reason else present


def now() -> str:
    """The time as Kubernetes writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
