"""Facts of Workloads and of their pods → `WorkloadState`. Pure: no client, no clock.

What an object means is its back end's to say. What stands here is the same for all: a Workload whose object was deleted
is not gone before its pods are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from psr_operator.backends.base import PodFacts, WorkloadFacts
from psr_operator.planner.types import ExitClass, Phase, WorkloadState
from psr_runtime.protocol import ProgressReport

NO_EVENTS: Mapping[str, str] = {}


def workload_states(
    workloads: Sequence[WorkloadFacts],
    pods: Sequence[PodFacts],
    progress: Mapping[str, ProgressReport],
    events: Mapping[str, str] = NO_EVENTS,
) -> tuple[WorkloadState, ...]:
    """Every Workload of an object of which anything is left.

    Args:
        workloads: the objects that stand for them.
        pods: of the object; those of servers are left out.
        progress: by name of the Workload.
        events: what Kubernetes warns of, by uid of a Workload's object or of a pod.
    """
    by_name = {facts.name: facts for facts in workloads}
    pods_of: dict[str, list[PodFacts]] = {name: [] for name in by_name}
    for pod in pods:
        if not pod.server:
            pods_of.setdefault(pod.unit, []).append(pod)
    states = []
    for name, own in sorted(pods_of.items()):
        facts = by_name.get(name)
        if facts is None or facts.deleting:
            state = _deleted(name, facts, own)
        else:
            state = _with_obstacles(facts.backend.state(facts, own, progress.get(name)), facts, own, events)
        states.append(_with_ending(state, own))
    return tuple(states)


def silent(workloads: Sequence[WorkloadFacts], pods: Sequence[PodFacts]) -> set[str]:
    """uids of Workloads' objects and of pods that do not get on and do not say why: only events may."""
    uids = {pod.uid for pod in pods if pod.phase == "Pending" and pod.node and not (pod.waiting or pod.deleting)}
    for facts in workloads:
        own = [pod for pod in pods if pod.unit == facts.name and not pod.server]
        if facts.ended or facts.deleting or len(own) >= facts.pods:
            continue
        if not facts.backend.state(facts, own, None).queued:
            uids.add(facts.uid)
    return uids


def _with_obstacles(
    state: WorkloadState, facts: WorkloadFacts, pods: Sequence[PodFacts], events: Mapping[str, str]
) -> WorkloadState:
    """A Workload that waits or runs, with what keeps it, or a part of it, from its work."""
    if state.phase not in (Phase.PENDING, Phase.RUNNING) or state.queued:
        return state
    if state.message:
        return replace(state, blocked=True)
    why = next(iter(_obstacles(facts, pods, events)), "")
    return replace(state, message=f"{facts.name}: {why}", blocked=True) if why else state


def _obstacles(facts: WorkloadFacts, pods: Sequence[PodFacts], events: Mapping[str, str]) -> list[str]:
    said = [events[facts.uid]] if facts.uid in events else []
    for pod in pods:
        why = pod.trouble or (pod.waiting or events.get(pod.uid) if pod.phase == "Pending" else "")
        if why:
            said.append(f"{pod.name}: {why}")
    return said


def _with_ending(state: WorkloadState, pods: Sequence[PodFacts]) -> WorkloadState:
    """A Workload with the pod that should be gone first, where something of it is left."""
    first = first_to_end(pods)
    if first is None or state.gone:
        return state
    return replace(state, ends_by=first.ends_by, ending=described(first))


def first_to_end(pods: Sequence[PodFacts]) -> PodFacts | None:
    """Of the pods that were deleted and are there, the one that should be gone first."""
    ending = [pod for pod in pods if pod.ends_by is not None and not pod.finished]
    return min(ending, key=lambda pod: pod.ends_by or 0.0, default=None)


def described(pod: PodFacts) -> str:
    """A pod and its node, for messages."""
    return f"pod {pod.name} on node {pod.node or '(none)'}"


def _deleted(name: str, facts: WorkloadFacts | None, pods: Sequence[PodFacts]) -> WorkloadState:
    """A Workload whose object is going or gone; its pods outlive it for a while."""
    attempt = facts.attempt if facts is not None else attempt_in(name)
    gone = facts is None and all(pod.finished for pod in pods)
    message = f"{name} was deleted"
    return WorkloadState(name, attempt, Phase.FAILED, ExitClass.DISRUPTION, message=message, gone=gone)


def attempt_in(name: str) -> int:
    """The attempt in a Workload's name (`…-a3`), 0 where the name was cut."""
    match = re.search(r"-a(\d+)$", name)
    return int(match[1]) if match else 0
