"""What is said while Workloads or a server end: of a pod that does not go, its name and its node.

A deleted pod goes when its kubelet says that its containers have ended. On a node that is dead nobody says that, and
what waits for the pod (an attempt, GPUs) waits for ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from psr_operator.conditions import Summary
from psr_operator.planner.types import ServerState, WorkloadState

HANGING_SECONDS = 60.0
"""After the end of its grace period a pod that is still there is called hanging."""


def with_hanging(
    summary: Summary, states: Sequence[WorkloadState | ServerState], now: datetime
) -> tuple[Summary, float | None]:
    """The summary of an object that waits for others to end, and when to look again.

    Args:
        states: of what is still there.
        now: aware time.

    Returns:
        The summary, with the pod that hangs where there is one; seconds after which one would be called so, None where
        nothing that ends has a time for that.
    """
    first = min((item for item in states if item.ends_by is not None), key=_ends_by, default=None)
    if first is None:
        return summary, None
    left = _ends_by(first) + HANGING_SECONDS - now.timestamp()
    if left > 0:
        return summary, left
    message = (
        f"{first.ending} should be gone by now and hangs Terminating: if its node is dead, delete the node from the "
        f"cluster, or the pod by force ({summary.message})"
    )
    return replace(summary, message=message, blocked=True), None


def _ends_by(state: WorkloadState | ServerState) -> float:
    assert state.ends_by is not None
    return state.ends_by
