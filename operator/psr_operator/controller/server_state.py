"""Facts of a server's Deployment and pods, and what the pods report → `ServerState`. Pure: no client, no clock."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from psr_operator.backends.base import PodFacts
from psr_operator.controller.facts import DeploymentFacts
from psr_operator.controller.workload_state import NO_EVENTS, described, first_to_end
from psr_operator.planner.types import ServerState
from psr_runtime.protocol import FINAL, FailureReason, ServerPhase, ServerReport, TerminationMessage

OUT_OF_MEMORY = "OOMKilled"
HOPELESS_RESTARTS = 3
"""A server whose container ended this often without getting ready cannot serve."""


def server_state(
    name: str,
    deployment: DeploymentFacts | None,
    pods: Sequence[PodFacts],
    reports: Mapping[str, ServerReport],
    *,
    url: str,
    model: str,
    digest: str | None,
    events: Mapping[str, str] = NO_EVENTS,
    unreachable: Collection[str] = (),
) -> ServerState | None:
    """A server as observed; None where nothing of it was ever made.

    Args:
        reports: by uid of the pod.
        url: by which clients reach it.
        model, digest: that are wanted.
        events: what Kubernetes warns of, by uid of a pod.
        unreachable: uids of pods whose control port does not answer the operator.
    """
    state = _state(name, deployment, pods, reports, url, model, digest)
    first = first_to_end([pod for pod in pods if pod.server])
    if state is not None and first is not None and not state.gone:
        state = replace(state, ends_by=first.ends_by, ending=described(first))
    if state is None or deployment is None or deployment.replicas == 0 or state.failed or state.ready is not None:
        return state
    live = [pod for pod in pods if pod.server and not pod.finished and not pod.deleting]
    pending = len(live) < deployment.replicas or any(pod.phase == "Pending" for pod in live)
    why = _obstacle(deployment, live, events, unreachable)
    return replace(state, pending=pending, blocked=bool(why), message=why or state.message)


def _state(
    name: str,
    deployment: DeploymentFacts | None,
    pods: Sequence[PodFacts],
    reports: Mapping[str, ServerReport],
    url: str,
    model: str,
    digest: str | None,
) -> ServerState | None:
    """The same without what keeps it from serving."""
    remaining = [pod for pod in pods if pod.server and not pod.finished]
    if deployment is None or deployment.deleting:
        if not remaining and deployment is None:
            return None
        return ServerState(name, message="ending", gone=False)
    if deployment.replicas == 0:
        gone = not remaining and deployment.settled and deployment.pods == 0
        return ServerState(name, message="released" if gone else "ending", image=deployment.image, gone=gone)
    live = [pod for pod in remaining if not pod.deleting]
    failure = _failure(live, reports, digest)
    if failure is not None:
        message, reason = failure
        return ServerState(name, image=deployment.image, failed=True, reason=reason, message=message)
    served = {
        report.served
        for pod in live
        if (report := reports.get(pod.uid)) is not None and report.phase == ServerPhase.READY
    }
    serving = [pod for pod in live if _serves(pod, reports.get(pod.uid), digest)]
    if len(serving) == len(remaining) == deployment.replicas and len(served) == 1:
        return ServerState(name, (url,), ready=model, digest=served.pop(), message="serving", image=deployment.image)
    return ServerState(name, message=_message(deployment, live, reports), image=deployment.image)


def _serves(pod: PodFacts, report: ServerReport | None, digest: str | None) -> bool:
    """Whether a pod has proved that it serves the model of this digest, or any for None."""
    if not pod.ready or report is None or report.phase != ServerPhase.READY or report.served is None:
        return False
    return digest is None or report.served == digest


def _failure(
    pods: Sequence[PodFacts], reports: Mapping[str, ServerReport], digest: str | None
) -> tuple[str, FailureReason | None] | None:
    """Message and reason of a server that cannot serve the wanted model; None for one that may."""
    for pod in pods:
        report = reports.get(pod.uid)
        if report is not None and report.phase == ServerPhase.FAILED and digest in (None, report.digest):
            return report.message, report.reason
        if pod.ready or pod.exit_code is None or pod.exit_code == 0:
            continue
        said = TerminationMessage.read(pod.message)
        if pod.exit_code in FINAL:
            reason = said.reason or FailureReason.of_code(pod.exit_code)
            return f"{pod.name}: {said.error} (exit code {pod.exit_code})", reason
        if pod.restarts >= HOPELESS_RESTARTS and pod.looping:
            why = _out_of_memory(pod) or said.error or pod.end_reason
            return f"{pod.name}: {why} (exit code {pod.exit_code}, again and again)", None
    return None


def _out_of_memory(pod: PodFacts) -> str:
    """What is said of a pod whose last end was for want of memory; "" for another one."""
    return f"{OUT_OF_MEMORY}: its memory limit is too small" if pod.end_reason == OUT_OF_MEMORY else ""


def _obstacle(
    deployment: DeploymentFacts, pods: Sequence[PodFacts], events: Mapping[str, str], unreachable: Collection[str]
) -> str:
    """What keeps a server from serving, a sentence; "" where nothing is known to."""
    for pod in pods:
        why = (pod.waiting or events.get(pod.uid, "")) if pod.phase == "Pending" else pod.trouble
        if not why and not pod.ready and pod.restarts:
            why = _out_of_memory(pod)
        if not why and pod.uid in unreachable:
            why = "its control port does not answer the operator; a NetworkPolicy or the node may be in the way"
        if why:
            return f"{pod.name}: {why}"
    return deployment.failure


def _message(deployment: DeploymentFacts, pods: Sequence[PodFacts], reports: Mapping[str, ServerReport]) -> str:
    """What a server is waiting for."""
    for pod in pods:
        report = reports.get(pod.uid)
        if report is not None and report.phase != ServerPhase.READY:
            return f"{report.phase}: {report.message}" if report.message else report.phase
    running = sum(pod.phase == "Running" for pod in pods)
    return f"{running} of {deployment.replicas} pods run"
