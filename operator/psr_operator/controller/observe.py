"""Facts → `WorkloadState` and `ServerState`. Pure: no client, no clock."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from psr_operator.controller.facts import DeploymentFacts, JobFacts, PodFacts, error_of, result_of
from psr_operator.planner.types import ExitClass, Phase, ServerState, WorkloadState
from psr_runtime.protocol import FailureReason

FAILED_POLICY = "PodFailurePolicy"
LOOP = "CrashLoopBackOff"
HOPELESS_RESTARTS = 3
"""A server whose container ended this often without getting ready cannot serve."""


@dataclass(frozen=True)
class Heard:
    """What running pods said of themselves: how far a Workload is.

    Attributes:
        progress: 0 to 1.
        eta: seconds left.
    """

    progress: float
    eta: float | None


@dataclass(frozen=True)
class Told:
    """What the control port of a server's pod said last.

    Attributes:
        state: a word of `psr_runtime.serving.control.Phase`.
        digest: of the model that is wanted there.
        served: of the model that clients may use.
    """

    state: str
    digest: str | None
    served: str | None
    message: str


def workload_states(
    jobs: Sequence[JobFacts], pods: Sequence[PodFacts], heard: Mapping[str, Heard]
) -> tuple[WorkloadState, ...]:
    """Every Workload of an object of which a Job or a pod is left."""
    names = {job.name: job for job in jobs}
    groups: dict[str, list[PodFacts]] = {name: [] for name in names}
    for pod in pods:
        if not pod.server:
            groups.setdefault(pod.unit, []).append(pod)
    return tuple(_workload(name, names.get(name), groups[name], heard.get(name)) for name in sorted(groups))


def _workload(name: str, job: JobFacts | None, pods: Sequence[PodFacts], heard: Heard | None) -> WorkloadState:
    gone = all(pod.over for pod in pods)
    if job is None or job.deleting:
        # Its pods outlive a deleted Job for a while; nothing of it may be made again before they are gone.
        attempt = job.attempt if job is not None else attempt_of(name)
        message = f"{name} was deleted"
        return WorkloadState(
            name, attempt, Phase.FAILED, ExitClass.DISRUPTION, message=message, gone=gone and job is None
        )
    if job.ended == "Complete":
        first = next((pod for pod in pods if pod.index == 0 and pod.phase == "Succeeded"), None)
        result = result_of(first.message) if first is not None else None
        return WorkloadState(name, job.attempt, Phase.SUCCEEDED, result=result, gone=gone)
    if job.ended == "Failed":
        how, message = _failure(job, pods)
        return WorkloadState(name, job.attempt, Phase.FAILED, how, message=message, gone=gone)
    if any(pod.phase != "Pending" for pod in pods):
        return WorkloadState(
            name,
            job.attempt,
            Phase.RUNNING,
            progress=heard.progress if heard is not None else None,
            eta=heard.eta if heard is not None else None,
        )
    waiting = next((pod.waiting for pod in pods if pod.waiting), "")
    if job.held:
        return WorkloadState(name, job.attempt, Phase.PENDING, message=f"{name} waits in its queue", queued=True)
    return WorkloadState(name, job.attempt, Phase.PENDING, message=f"{name}: {waiting}" if waiting else "")


def attempt_of(name: str) -> int:
    """The attempt in a Workload's name (`…-a3`), 0 where the name was cut."""
    found = re.search(r"-a(\d+)$", name)
    return int(found[1]) if found else 0


def _failure(job: JobFacts, pods: Sequence[PodFacts]) -> tuple[ExitClass, str]:
    """How a Job failed. Only a rule that matched names the code for sure; else the containers tell."""
    broken = sorted((pod for pod in pods if pod.phase == "Failed"), key=lambda pod: (pod.disrupted, pod.index))
    if job.why == FAILED_POLICY:
        rule = re.search(r"rule at index (\d+)", job.message)
        code = re.search(r"exit code (\d+)", job.message)
        if rule is not None and rule[1] == "1":
            return ExitClass.DISRUPTION, job.message
        if rule is not None and code is not None:
            return ExitClass.of(int(code[1])), _words(broken, int(code[1])) or job.message
    for pod in broken:
        if pod.ended == "OOMKilled":
            return ExitClass.MEMORY, f"{pod.name}: OOMKilled: its memory limit is too small"
    if broken and all(pod.disrupted for pod in broken):
        return ExitClass.DISRUPTION, broken[0].message or f"{broken[0].name} was disrupted"
    for pod in broken:
        if pod.exit_code is not None and not pod.disrupted:
            return ExitClass.of(pod.exit_code), _words([pod], pod.exit_code) or job.message
    return ExitClass.FAILURE, job.message or job.why


def _words(pods: Sequence[PodFacts], code: int) -> str:
    """What the pod that ended with this code said."""
    said = next((error_of(pod.message) for pod in pods if pod.exit_code == code and pod.message), "")
    return f"{said} (exit code {code})" if said else ""


def server_state(
    name: str,
    deployment: DeploymentFacts | None,
    pods: Sequence[PodFacts],
    told: Mapping[str, Told],
    *,
    url: str,
    model: str,
    digest: str | None,
) -> ServerState | None:
    """A server as observed; None where nothing of it was ever made.

    Args:
        told: by uid of the pod.
        url: by which clients reach it.
        model, digest: that are wanted.
    """
    mine = [pod for pod in pods if pod.server and not pod.over]
    if deployment is None or deployment.deleting:
        if not mine:
            return None if deployment is None else ServerState(name, message="ending", gone=False)
        return ServerState(name, message="ending", gone=False)
    if deployment.replicas == 0:
        gone = not mine and deployment.settled and deployment.pods == 0
        return ServerState(name, message="released" if gone else "ending", image=deployment.image, gone=gone)
    state = ServerState(name, image=deployment.image)
    live = [pod for pod in mine if not pod.deleting]
    failure = _server_failure(live, told, digest)
    if failure is not None:
        reason, message = failure
        return ServerState(name, image=deployment.image, failed=True, reason=reason, message=message)
    said = [told.get(pod.uid) for pod in live]
    served = {item.served for item in said if item is not None and item.state == "Ready"}
    right = [
        pod
        for pod, item in zip(live, said, strict=True)
        if pod.ready
        and item is not None
        and item.state == "Ready"
        and item.served is not None
        and (digest is None or item.served == digest)
    ]
    if len(right) == len(mine) == deployment.replicas and len(served) == 1:
        return ServerState(name, (url,), ready=model, digest=served.pop(), message="serving", image=deployment.image)
    return ServerState(name, message=_server_message(deployment, live, said) or state.message, image=deployment.image)


def _server_failure(
    pods: Sequence[PodFacts], told: Mapping[str, Told], digest: str | None
) -> tuple[FailureReason | None, str] | None:
    for pod in pods:
        item = told.get(pod.uid)
        if item is not None and item.state == "Failed" and digest in (None, item.digest):
            return None, item.message
        if pod.ready or pod.exit_code is None or pod.exit_code == 0:
            continue
        ended = ExitClass.of(pod.exit_code)
        if ended.final:
            return FailureReason.of_code(
                pod.exit_code
            ), f"{pod.name}: {error_of(pod.message)} (exit code {pod.exit_code})"
        if pod.restarts >= HOPELESS_RESTARTS and pod.waiting == LOOP:
            return None, f"{pod.name}: {error_of(pod.message)} (exit code {pod.exit_code}, again and again)"
    return None


def _server_message(deployment: DeploymentFacts, pods: Sequence[PodFacts], said: Sequence[Told | None]) -> str:
    for pod in pods:
        if pod.phase == "Pending" and pod.waiting:
            return f"{pod.name}: {pod.waiting}"
    for item in said:
        if item is not None and item.state != "Ready":
            return f"{item.state}: {item.message}" if item.message else item.state
    running = sum(pod.phase == "Running" for pod in pods)
    return f"{running} of {deployment.replicas} pods run"
