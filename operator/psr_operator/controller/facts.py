"""What is kept of pods and Deployments. The facts of Workloads are their back ends'.

A container is known by its name. Meshes and agents inject containers of their own, and a status lists them in the order
of their names: ours may come last.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from sys import intern
from typing import Any

from psr_operator.backends.base import (
    OwnerLabels,
    PodFacts,
    Raw,
    controller_of,
    labels_of,
    number_in,
    owner_labels,
)
from psr_operator.controller.client import FIELD_MANAGER
from psr_operator.render.labels import (
    ANNOTATION_MODEL_HASH,
    ANNOTATION_SERVER_HASH,
    LABEL_INDEX,
    LABEL_SERVER,
    LABEL_WORKLOAD,
)
from psr_operator.render.server import CONTAINER as SERVER_CONTAINER
from psr_operator.render.stage import CONTAINER as STAGE_CONTAINER

DEFAULT_CONTAINER = "kubectl.kubernetes.io/default-container"
"""Annotation that names the container of a pod whose back end must call it otherwise."""
LOOP = "CrashLoopBackOff"
USUAL = ("", "ContainerCreating", "PodInitializing")
"""Reasons of a container that waits which say nothing."""
OF_CONTAINERS = ("ContainersNotReady", "ReadinessGatesNotReady")
"""Reasons of a pod that is not ready by itself. With another one its node has been given up."""


@dataclass(slots=True, frozen=True)
class DeploymentFacts:
    """The Deployment of a server.

    Attributes:
        replicas: wanted.
        pods: that its controller counts.
        settled: whether its controller has seen the present specification.
        failure: why its controller can make no pods, in Kubernetes' words; "" where it can.
        generation: of its specification.
        changed_by: who else has written its specification, its number of replicas left out; "" for nobody.
        changed_image: whether the image is among what they wrote.
    """

    name: str
    uid: str
    version: int
    labels: OwnerLabels
    owner: str
    replicas: int
    pods: int
    settled: bool
    image: str
    server_hash: str
    model_hash: str
    deleting: bool
    failure: str = ""
    generation: int = 0
    changed_by: str = ""
    changed_image: bool = False


def deployment_facts(raw: Raw) -> DeploymentFacts | None:
    """The facts of a Deployment; None for one that is not ours."""
    meta, labels = raw["metadata"], owner_labels(raw)
    if labels is None or LABEL_SERVER not in labels_of(raw):
        return None
    annotations = meta.get("annotations") or {}
    status = raw.get("status") or {}
    container = _named(SERVER_CONTAINER, raw["spec"]["template"]["spec"]["containers"])
    conditions = {item["type"]: item for item in status.get("conditions") or ()}
    failing = conditions.get("ReplicaFailure", {})
    others = list(_other_writers(raw))
    return DeploymentFacts(
        name=meta["name"],
        uid=meta["uid"],
        version=int(meta["resourceVersion"]),
        labels=labels,
        owner=controller_of(raw),
        replicas=int(raw["spec"].get("replicas", 1)),
        pods=int(status.get("replicas") or 0),
        settled=int(status.get("observedGeneration") or 0) >= int(meta.get("generation") or 0),
        image=str(container.get("image", "")),
        server_hash=str(annotations.get(ANNOTATION_SERVER_HASH, "")),
        model_hash=str(annotations.get(ANNOTATION_MODEL_HASH, "")),
        deleting="deletionTimestamp" in meta,
        failure=str(failing.get("message", "")) if failing.get("status") == "True" else "",
        generation=int(meta.get("generation") or 0),
        changed_by=", ".join(name for name, _ in others),
        changed_image=any(image for _, image in others),
    )


def _other_writers(raw: Raw) -> Iterator[tuple[str, bool]]:
    """Who else owns fields of an object's specification, and whether the image of a container is one of them.

    Replicas are compared by their number. A restart (`kubectl rollout restart`) annotates the pods, which is allowed.
    An object of which the operator has not written the pods (a restored backup) was made by others, not changed.
    """
    entries = [item for item in raw["metadata"].get("managedFields") or () if item.get("subresource") != "status"]
    if not any(item.get("manager") == FIELD_MANAGER and _written(item)[1] for item in entries):
        return
    for item in entries:
        fields, template = _written(item)
        if item.get("manager") != FIELD_MANAGER and (fields or template):
            yield str(item.get("manager")), '"f:image"' in json.dumps(template)


def _written(entry: Raw) -> tuple[dict[str, Any], dict[str, Any]]:
    """What an entry of managedFields holds of a Deployment: of itself, and of its pods without their metadata."""
    fields = dict((entry.get("fieldsV1") or {}).get("f:spec") or {})
    template = dict(fields.pop("f:template", None) or {})
    fields.pop("f:replicas", None)
    template.pop("f:metadata", None)
    return fields, template


def pod_facts(raw: Raw) -> PodFacts | None:
    """The facts of a pod; None for one that is not ours."""
    meta, own = raw["metadata"], labels_of(raw)
    labels = owner_labels(raw)
    unit = own.get(LABEL_WORKLOAD) or own.get(LABEL_SERVER)
    if labels is None or unit is None:
        return None
    status, server = raw.get("status") or {}, LABEL_SERVER in own
    conditions = {item["type"]: item for item in status.get("conditions") or ()}
    name = (meta.get("annotations") or {}).get(DEFAULT_CONTAINER) or (SERVER_CONTAINER if server else STAGE_CONTAINER)
    containers = status.get("containerStatuses") or ()
    container = _named(name, containers)
    before = status.get("initContainerStatuses") or ()
    phase, node = str(status.get("phase", "Pending")), str((raw.get("spec") or {}).get("nodeName") or "")
    culprit = _culprit(container, before, containers, phase)
    end = _end(culprit)
    return PodFacts(
        name=meta["name"],
        uid=meta["uid"],
        version=int(meta["resourceVersion"]),
        labels=labels,
        owner=controller_of(raw),
        owner_name=controller_of(raw, "name"),
        unit=intern(unit),
        server=server,
        index=number_in(own.get(LABEL_INDEX)),
        phase=intern(phase),
        ip=str(status.get("podIP", "")),
        ready=conditions.get("Ready", {}).get("status") == "True",
        deleting="deletionTimestamp" in meta,
        disrupted=conditions.get("DisruptionTarget", {}).get("status") == "True",
        restarts=int(culprit.get("restartCount") or 0),
        exit_code=int(end["exitCode"]) if "exitCode" in end else None,
        end_reason=intern(str(end.get("reason", "") or status.get("reason", ""))),
        message=_last_words(culprit, container, status, phase),
        waiting=_waiting(phase, conditions, container, [*before, *containers]),
        node=intern(node),
        looping=any(_reason_of_waiting(item) == LOOP for item in (container, culprit)),
        trouble=_trouble(phase, node, conditions, container, containers, server=server),
        ends_by=_seconds(meta.get("deletionTimestamp")),
    )


def _culprit(container: Raw, before: Sequence[Raw], others: Sequence[Raw], phase: str) -> Raw:
    """The container whose end is the pod's: ours, unless it has not begun or did well where another one broke."""
    broken = [item for item in (*before, *others) if _end(item).get("exitCode")]
    if _end(container).get("exitCode") or not broken:
        return container
    begun = bool(container.get("restartCount")) or "running" in _state(container) or bool(_end(container))
    return container if begun and phase != "Failed" else broken[0]


def _last_words(culprit: Raw, container: Raw, status: Raw, phase: str) -> str:
    end = _end(culprit)
    if not (end or phase in ("Failed", "Succeeded")):
        return ""
    said = str(end.get("message", "") or status.get("message", ""))
    if culprit is container:
        return said
    return (
        f"container {culprit.get('name')} ended with exit code {end.get('exitCode')}: {said or end.get('reason', '')}"
    )


def _waiting(phase: str, conditions: Mapping[str, Raw], container: Raw, containers: Sequence[Raw]) -> str:
    if phase != "Pending":
        return _reason_of_waiting(container)
    scheduled = conditions.get("PodScheduled", {})
    if scheduled.get("status") == "False":
        return f"{scheduled.get('reason', 'Unschedulable')}: {scheduled.get('message', '')}"
    return next((_why(item, container) for item in containers if _reason_of_waiting(item) not in USUAL), "")


def _why(item: Raw, container: Raw) -> str:
    """Why a container waits, by its name where it is not ours."""
    waiting, end = _state(item).get("waiting") or {}, _end(item)
    whose = "" if item is container else f"container {item.get('name')}: "
    ended = f" (it ended with exit code {end['exitCode']}: {end.get('reason', '')})" if "exitCode" in end else ""
    return f"{whose}{waiting['reason']}: {waiting.get('message', '')}{ended}"


def _trouble(
    phase: str, node: str, conditions: Mapping[str, Raw], container: Raw, containers: Sequence[Raw], *, server: bool
) -> str:
    if phase != "Running":
        return ""
    ready = conditions.get("Ready", {})
    lost = ready.get("status") in ("False", "Unknown") and ready.get("reason", "") not in OF_CONTAINERS
    if lost and container.get("ready"):
        return f"node {node} does not answer any more"
    others = ", ".join(str(item.get("name")) for item in containers if "running" in _state(item))
    if not server and "terminated" in _state(container) and others:
        return (
            f"its work has ended, and {others} goes on and keeps the pod: have it injected as a sidecar that "
            "Kubernetes ends (an init container with restartPolicy Always), or not at all"
        )
    return ""


def _named(name: str, containers: Sequence[Raw]) -> Raw:
    """The container of this name; empty where there is none yet."""
    return next((item for item in containers if item.get("name", name) == name), {})


def _state(container: Raw) -> Mapping[str, Any]:
    return container.get("state") or {}


def _end(container: Raw) -> Mapping[str, Any]:
    """How a container has ended last; empty where it never has."""
    return _state(container).get("terminated") or (container.get("lastState") or {}).get("terminated") or {}


def _reason_of_waiting(container: Raw) -> str:
    return str((_state(container).get("waiting") or {}).get("reason") or "")


def _seconds(time: str | None) -> float | None:
    """A time of Kubernetes in seconds since the epoch."""
    try:
        return datetime.fromisoformat(time).timestamp() if time else None
    except ValueError:
        return None
