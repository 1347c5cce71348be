"""Facts of Workloads and of their pods → `WorkloadState`. Pure: no client, no clock.

What an object means is its back end's to say. What stands here is the same for all: a Workload whose object was deleted
is not gone before its pods are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from psr_operator.backends.base import PodFacts, WorkloadFacts
from psr_operator.planner.types import ExitClass, Phase, WorkloadState
from psr_runtime.protocol import ProgressReport


def workload_states(
    workloads: Sequence[WorkloadFacts], pods: Sequence[PodFacts], progress: Mapping[str, ProgressReport]
) -> tuple[WorkloadState, ...]:
    """Every Workload of an object of which anything is left.

    Args:
        workloads: the objects that stand for them.
        pods: of the object; those of servers are left out.
        progress: by name of the Workload.
    """
    by_name = {facts.name: facts for facts in workloads}
    pods_of: dict[str, list[PodFacts]] = {name: [] for name in by_name}
    for pod in pods:
        if not pod.server:
            pods_of.setdefault(pod.unit, []).append(pod)
    return tuple(
        facts.backend.state(facts, pods_of[name], progress.get(name))
        if (facts := by_name.get(name)) is not None and not facts.deleting
        else _deleted(name, facts, pods_of[name])
        for name in sorted(pods_of)
    )


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
