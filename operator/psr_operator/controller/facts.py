"""What is kept of Jobs, Deployments and pods: the few facts that observation needs, not the objects.

Thousands of pods are known at a time, so a fact is a slotted value and strings that repeat are shared.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from sys import intern
from typing import Any

from psr_operator.render import (
    LABEL_ATTEMPT,
    LABEL_KIND,
    LABEL_NAME,
    LABEL_SERVER,
    LABEL_STAGE,
    LABEL_UID,
    LABEL_WORKLOAD,
)

INDEX = "batch.kubernetes.io/job-completion-index"
Raw = Mapping[str, Any]


@dataclass(slots=True, frozen=True)
class Belongs:
    """To which object of ours a foreign object belongs, by its labels. The uid is checked against the owner chain."""

    kind: str
    namespace: str
    name: str
    uid: str


@dataclass(slots=True, frozen=True)
class JobFacts:
    """A Job of a Workload.

    Attributes:
        owner: uid of its controller, our object.
        ended: `Complete` or `Failed`, None while it is neither.
        why, message: of the condition that ended it.
        deleting: whether it was deleted and still stands.
        held: whether it is suspended (by a queue).
    """

    name: str
    uid: str
    version: int
    belongs: Belongs
    owner: str
    stage: str
    attempt: int
    completions: int
    ended: str | None
    why: str
    message: str
    deleting: bool
    held: bool


@dataclass(slots=True, frozen=True)
class PodFacts:
    """A pod of a Workload or a server.

    Attributes:
        owner, owner_name: uid and name of its controller, a Job or a ReplicaSet.
        unit: name of the Workload or server that it is a part of.
        server: whether that is a server.
        exit_code, ended, message: of its container's last end; None and "" before.
        waiting: why it does not run yet, a reason and a sentence.
        disrupted: evicted, drained or preempted.
    """

    name: str
    uid: str
    version: int
    belongs: Belongs
    owner: str
    owner_name: str
    unit: str
    server: bool
    index: int
    phase: str
    ip: str
    ready: bool
    deleting: bool
    disrupted: bool
    restarts: int
    exit_code: int | None
    ended: str
    message: str
    waiting: str

    @property
    def over(self) -> bool:
        """Whether its containers have ended for good: it holds no device any more."""
        return self.phase in ("Succeeded", "Failed")


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
    belongs: Belongs
    owner: str
    replicas: int
    pods: int
    settled: bool
    image: str
    server_hash: str
    model_hash: str
    deleting: bool


def job_facts(raw: Raw) -> JobFacts | None:
    """The facts of a Job; None for one that is not ours."""
    meta, labels = raw["metadata"], _labels(raw)
    belongs = _belongs(meta, labels)
    if belongs is None or LABEL_WORKLOAD not in labels:
        return None
    status = raw.get("status") or {}
    found = {item["type"]: item for item in status.get("conditions") or () if item.get("status") == "True"}
    ended = next((name for name in ("Complete", "Failed") if name in found), None)
    return JobFacts(
        name=intern(meta["name"]),
        uid=intern(meta["uid"]),
        version=int(meta["resourceVersion"]),
        belongs=belongs,
        owner=_controller(meta),
        stage=intern(labels.get(LABEL_STAGE, "")),
        attempt=_number(labels.get(LABEL_ATTEMPT)),
        completions=int(raw["spec"].get("completions") or 1),
        ended=ended,
        why=intern(str(found[ended].get("reason", ""))) if ended else "",
        message=str(found[ended].get("message", "")) if ended == "Failed" else "",
        deleting="deletionTimestamp" in meta,
        held=bool(raw["spec"].get("suspend")),
    )


def deployment_facts(raw: Raw) -> DeploymentFacts | None:
    """The facts of a Deployment; None for one that is not ours."""
    from psr_operator.render import ANNOTATION_MODEL_HASH, ANNOTATION_SERVER_HASH

    meta, labels = raw["metadata"], _labels(raw)
    belongs = _belongs(meta, labels)
    if belongs is None or LABEL_SERVER not in labels:
        return None
    annotations = meta.get("annotations") or {}
    status = raw.get("status") or {}
    containers = raw["spec"]["template"]["spec"]["containers"]
    return DeploymentFacts(
        name=meta["name"],
        uid=meta["uid"],
        version=int(meta["resourceVersion"]),
        belongs=belongs,
        owner=_controller(meta),
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
    meta, labels = raw["metadata"], _labels(raw)
    belongs = _belongs(meta, labels)
    unit = labels.get(LABEL_WORKLOAD) or labels.get(LABEL_SERVER)
    if belongs is None or unit is None:
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
        belongs=belongs,
        owner=_controller(meta),
        owner_name=_controller(meta, "name"),
        unit=intern(unit),
        server=LABEL_SERVER in labels,
        index=_number(labels.get(INDEX)),
        phase=intern(phase),
        ip=str(status.get("podIP", "")),
        ready=conditions.get("Ready", {}).get("status") == "True",
        deleting="deletionTimestamp" in meta,
        disrupted=conditions.get("DisruptionTarget", {}).get("status") == "True",
        restarts=int(container.get("restartCount") or 0),
        exit_code=int(end["exitCode"]) if "exitCode" in end else None,
        ended=intern(str(end.get("reason", "") or status.get("reason", ""))),
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


def result_of(message: str) -> dict[str, Any] | None:
    """The result in a termination message; None where it holds none."""
    try:
        found = json.loads(message)
    except ValueError:
        return None
    if (
        not isinstance(found, dict)
        or not isinstance(found.get("output"), str)
        or not isinstance(found.get("digest"), str)
    ):
        return None
    return found


def error_of(message: str) -> str:
    """What a termination message says went wrong: the stage's own words, else the end of its log."""
    try:
        found = json.loads(message)
    except ValueError:
        return message.strip()[-600:]
    return str(found.get("error", "")) if isinstance(found, dict) else ""


def _labels(raw: Raw) -> Mapping[str, str]:
    return raw["metadata"].get("labels") or {}


def _belongs(meta: Raw, labels: Mapping[str, str]) -> Belongs | None:
    if LABEL_UID not in labels:
        return None
    return Belongs(
        intern(labels.get(LABEL_KIND, "")),
        intern(str(meta.get("namespace", ""))),
        intern(labels.get(LABEL_NAME, "")),
        intern(labels[LABEL_UID]),
    )


def _controller(meta: Raw, what: str = "uid") -> str:
    return next((intern(item[what]) for item in meta.get("ownerReferences") or () if item.get("controller")), "")


def _number(text: str | None) -> int:
    return int(text) if text is not None and text.isdecimal() else 0
