"""What is kept of pods and Deployments. The facts of Workloads are their back ends'."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from sys import intern

from psr_operator.backends.base import (
    OwnerLabels,
    PodFacts,
    Raw,
    controller_of,
    labels_of,
    number_in,
    owner_labels,
)
from psr_operator.render.labels import (
    ANNOTATION_MODEL_HASH,
    ANNOTATION_SERVER_HASH,
    LABEL_INDEX,
    LABEL_SERVER,
    LABEL_WORKLOAD,
)


@dataclass(slots=True, frozen=True)
class DeploymentFacts:
    """The Deployment of a server.

    Attributes:
        replicas: wanted.
        pods: that its controller counts.
        settled: whether its controller has seen the present specification.
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


def deployment_facts(raw: Raw) -> DeploymentFacts | None:
    """The facts of a Deployment; None for one that is not ours."""
    meta, labels = raw["metadata"], owner_labels(raw)
    if labels is None or LABEL_SERVER not in labels_of(raw):
        return None
    annotations = meta.get("annotations") or {}
    status = raw.get("status") or {}
    containers = raw["spec"]["template"]["spec"]["containers"]
    return DeploymentFacts(
        name=meta["name"],
        uid=meta["uid"],
        version=int(meta["resourceVersion"]),
        labels=labels,
        owner=controller_of(raw),
        replicas=int(raw["spec"].get("replicas", 1)),
        pods=int(status.get("replicas") or 0),
        settled=int(status.get("observedGeneration") or 0) >= int(meta.get("generation") or 0),
        image=str(containers[0].get("image", "")),
        server_hash=str(annotations.get(ANNOTATION_SERVER_HASH, "")),
        model_hash=str(annotations.get(ANNOTATION_MODEL_HASH, "")),
        deleting="deletionTimestamp" in meta,
    )


def pod_facts(raw: Raw) -> PodFacts | None:
    """The facts of a pod; None for one that is not ours."""
    meta, own = raw["metadata"], labels_of(raw)
    labels = owner_labels(raw)
    unit = own.get(LABEL_WORKLOAD) or own.get(LABEL_SERVER)
    if labels is None or unit is None:
        return None
    status = raw.get("status") or {}
    conditions = {item["type"]: item for item in status.get("conditions") or ()}
    container: Raw = next(iter(status.get("containerStatuses") or ()), {})
    end = (container.get("state") or {}).get("terminated") or (container.get("lastState") or {}).get("terminated")
    end = end or {}
    phase = str(status.get("phase", "Pending"))
    return PodFacts(
        name=meta["name"],
        uid=meta["uid"],
        version=int(meta["resourceVersion"]),
        labels=labels,
        owner=controller_of(raw),
        owner_name=controller_of(raw, "name"),
        unit=intern(unit),
        server=LABEL_SERVER in own,
        index=number_in(own.get(LABEL_INDEX)),
        phase=intern(phase),
        ip=str(status.get("podIP", "")),
        ready=conditions.get("Ready", {}).get("status") == "True",
        deleting="deletionTimestamp" in meta,
        disrupted=conditions.get("DisruptionTarget", {}).get("status") == "True",
        restarts=int(container.get("restartCount") or 0),
        exit_code=int(end["exitCode"]) if "exitCode" in end else None,
        end_reason=intern(str(end.get("reason", "") or status.get("reason", ""))),
        message=str(
            end.get("message", "") or status.get("message", "") if phase in ("Failed", "Succeeded") or end else ""
        ),
        waiting=_waiting(phase, conditions, container),
    )


def _waiting(phase: str, conditions: Mapping[str, Raw], container: Raw) -> str:
    if phase != "Pending":
        waiting = (container.get("state") or {}).get("waiting") or {}
        return str(waiting.get("reason", ""))
    scheduled = conditions.get("PodScheduled", {})
    if scheduled.get("status") == "False":
        return f"{scheduled.get('reason', 'Unschedulable')}: {scheduled.get('message', '')}"
    waiting = (container.get("state") or {}).get("waiting") or {}
    if waiting.get("reason") in (None, "", "ContainerCreating", "PodInitializing"):
        return ""
    return f"{waiting['reason']}: {waiting.get('message', '')}"
