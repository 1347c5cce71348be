"""Workloads as batch/v1 Jobs: one pod for work that is whole, one a shard for a search.

Attempts are the planner's: a Job of whole work runs once and never again. Only a search lets Kubernetes repeat single
shards, since they share nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from sys import intern
from typing import Any

from psr_operator.api.common import Resource
from psr_operator.backends.base import (
    ObjectKind,
    PodFacts,
    Raw,
    WorkloadFacts,
    controller_of,
    labels_of,
    number_in,
    owner_labels,
)
from psr_operator.planner.types import ExitClass, Phase, Workload, WorkloadState
from psr_operator.render.labels import ANNOTATION_REVISION, LABEL_ATTEMPT, LABEL_WORKLOAD, foreign, metadata
from psr_operator.render.settings import REVISION, Settings
from psr_operator.render.stage import CONTAINER, stage_labels, stage_template
from psr_runtime.protocol import FINAL, ExitCode, FailureReason, ProgressReport, TerminationMessage
from psr_runtime.stages import STAGES, Shape

SHARD_RETRIES = 3
"""Failures of one shard before the attempt has failed."""
FAILED_POLICY = "PodFailurePolicy"
JOB = ObjectKind("batch/v1", "Job", "jobs")


@dataclass(slots=True, frozen=True)
class JobFacts(WorkloadFacts):
    """A Job of a Workload.

    Attributes:
        condition: that ended it, `Complete` or `Failed`; "" while it goes on.
        reason, message: of that condition.
        held: whether it is suspended (by a queue).
    """

    condition: str
    reason: str
    message: str
    held: bool


class JobBackend:
    """The back end of every cluster: Jobs need nothing but Kubernetes itself."""

    kinds = (JOB,)

    def objects(self, workload: Workload, owner: Resource, settings: Settings) -> list[dict[str, Any]]:
        return [job(workload, owner, settings)]

    def facts(self, raw: Raw) -> JobFacts | None:
        meta, own = raw["metadata"], labels_of(raw)
        owner = owner_labels(raw)
        if owner is None or LABEL_WORKLOAD not in own:
            return None
        conditions = (raw.get("status") or {}).get("conditions") or ()
        true = {item["type"]: item for item in conditions if item.get("status") == "True"}
        condition = next((name for name in ("Complete", "Failed") if name in true), "")
        return JobFacts(
            backend=self,
            kind=JOB,
            name=intern(meta["name"]),
            uid=intern(meta["uid"]),
            version=int(meta["resourceVersion"]),
            labels=owner,
            owner=controller_of(raw),
            attempt=number_in(own.get(LABEL_ATTEMPT)),
            pods=int(raw["spec"].get("completions") or 1),
            ended=bool(condition),
            deleting="deletionTimestamp" in meta,
            condition=condition,
            reason=intern(str(true[condition].get("reason", ""))) if condition else "",
            message=str(true[condition].get("message", "")) if condition == "Failed" else "",
            held=bool(raw["spec"].get("suspend")),
        )

    def state(self, facts: JobFacts, pods: Sequence[PodFacts], progress: ProgressReport | None) -> WorkloadState:
        name, attempt = facts.name, facts.attempt
        gone = all(pod.finished for pod in pods)
        if facts.condition == "Complete":
            first = next((pod for pod in pods if pod.index == 0 and pod.phase == "Succeeded"), None)
            result = TerminationMessage.read(first.message).result if first is not None else None
            return WorkloadState(name, attempt, Phase.SUCCEEDED, result=result, gone=gone)
        if facts.condition == "Failed":
            exit_class, message, reason = _failure(facts, pods)
            return WorkloadState(name, attempt, Phase.FAILED, exit_class, reason=reason, message=message, gone=gone)
        if any(pod.phase != "Pending" for pod in pods):
            fraction, eta = (progress.fraction, progress.eta) if progress is not None else (None, None)
            return WorkloadState(name, attempt, Phase.RUNNING, progress=fraction, eta=eta)
        if facts.held:
            return WorkloadState(name, attempt, Phase.PENDING, message=f"{name} waits in its queue", queued=True)
        waiting = next((pod.waiting for pod in pods if pod.waiting), "")
        return WorkloadState(name, attempt, Phase.PENDING, message=f"{name}: {waiting}" if waiting else "")


BACKEND = JobBackend()

# --- how a Job failed ----------------------------------------------------------------------------------------


def _failure(facts: JobFacts, pods: Sequence[PodFacts]) -> tuple[ExitClass, str, FailureReason | None]:
    """Class, message and reason of a Job's failure. Only a rule that matched names the code for sure; else the
    containers tell."""
    broken = sorted((pod for pod in pods if pod.phase == "Failed"), key=lambda pod: (pod.disrupted, pod.index))
    if facts.reason == FAILED_POLICY:
        rule = re.search(r"rule at index (\d+)", facts.message)
        code = re.search(r"exit code (\d+)", facts.message)
        if rule is not None and rule[1] == "1":
            return ExitClass.DISRUPTION, facts.message, None
        if rule is not None and code is not None:
            return _exit(facts, broken, int(code[1]))
    for pod in broken:
        if pod.end_reason == "OOMKilled":
            return ExitClass.MEMORY, f"{pod.name}: OOMKilled: its memory limit is too small", None
    if broken and all(pod.disrupted for pod in broken):
        return ExitClass.DISRUPTION, broken[0].message or f"{broken[0].name} was disrupted", None
    for pod in broken:
        if pod.exit_code is not None and not pod.disrupted:
            return _exit(facts, [pod], pod.exit_code)
    return ExitClass.FAILURE, facts.message or facts.reason, None


def _exit(facts: JobFacts, pods: Sequence[PodFacts], code: int) -> tuple[ExitClass, str, FailureReason | None]:
    """The same for a pod that ended with this code, in its own words where it left any."""
    text = next((pod.message for pod in pods if pod.exit_code == code and pod.message), "")
    said = TerminationMessage.read(text)
    message = f"{said.error} (exit code {code})" if said.error else facts.message
    return ExitClass.of(code), message, said.reason or FailureReason.of_code(code)


# --- the object ----------------------------------------------------------------------------------------------


def job(workload: Workload, owner: Resource, settings: Settings) -> dict[str, Any]:
    """A Workload's Job.

    Raises:
        RenderError: the manifest asks for what no pod may have, or the configuration does not fit.
    """
    placement = workload.placement
    pods = len(workload.configurations)
    spec: dict[str, Any] = {
        "completionMode": "Indexed",
        "completions": pods,
        "parallelism": pods,
        **_failures(workload.stage),
        "podReplacementPolicy": "Failed",
        "template": stage_template(workload, owner, settings),
    }
    if placement.ttl_seconds is not None:
        spec["ttlSecondsAfterFinished"] = placement.ttl_seconds
    annotations = {**foreign(placement.annotations), ANNOTATION_REVISION: str(REVISION)}
    own = stage_labels(workload, owner)
    return {
        "apiVersion": JOB.api_version,
        "kind": JOB.kind,
        "metadata": metadata(workload.name, owner, own, labels=placement.labels, annotations=annotations),
        "spec": spec,
    }


def _failures(stage: str) -> dict[str, Any]:
    """What Kubernetes does when a pod fails. The index of the rule that ended a Job is the class of its end."""
    final = {"action": "FailJob", "onExitCodes": _codes(*sorted(FINAL))}
    disrupted = [{"type": "DisruptionTarget", "status": "True"}]
    if STAGES[stage].shape is Shape.SHARDED:
        ignore = {"action": "Ignore", "onPodConditions": disrupted}
        return {
            "backoffLimitPerIndex": SHARD_RETRIES,
            "maxFailedIndexes": 0,
            "podFailurePolicy": {"rules": [final, ignore]},
        }
    rules = [
        final,
        {"action": "FailJob", "onPodConditions": disrupted},
        {"action": "FailJob", "onExitCodes": _codes(ExitCode.TEMPORARY)},
    ]
    return {"backoffLimit": 0, "podFailurePolicy": {"rules": rules}}


def _codes(*values: int) -> dict[str, Any]:
    return {"containerName": CONTAINER, "operator": "In", "values": [int(value) for value in values]}
