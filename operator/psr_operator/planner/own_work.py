"""A run's own work: an ordered list of lifecycles over one status, of which one is carried on at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar

from psr_operator.api.common import WorkStatus
from psr_operator.conditions import State, Summary
from psr_operator.planner.lifecycle import Lifecycle, advance
from psr_operator.planner.record import put_record, take_record
from psr_operator.planner.types import Observed, Workload

S = TypeVar("S", bound=WorkStatus)


@dataclass(frozen=True)
class OwnWork:
    """One lifecycle of an object.

    Attributes:
        beside: the model whose weights it removes, for work beside the object's own; None for the own.
        waits: why it may not begin yet; None when it may.
    """

    lifecycle: Lifecycle
    beside: str | None = None
    waits: Summary | None = None


@dataclass(frozen=True)
class Progress(Generic[S]):
    """Where an object's own work is.

    Attributes:
        status: without conditions yet.
        summary: of the lifecycle that was carried on, or why none was; None where all are done.
        beside: whether that was work beside the object's own.
        message: of the own work that is done; empty where there is none.
        workload, stop, again_after: as of `Decision`.
    """

    status: S
    summary: Summary | None = None
    beside: bool = False
    message: str = ""
    workload: Workload | None = None
    stop: tuple[str, ...] = ()
    again_after: float | None = None


def carry_on(works: Sequence[OwnWork], status: S, observed: Observed, now: datetime) -> Progress[S]:
    """Carry on the first lifecycle that is not done and does not wait.

    Work beside the object's own is one step a plan, its end included, so that this is stored before more is begun.
    """
    waits, message = None, ""
    for work in works:
        if work.waits is not None:
            waits = work.waits
            continue
        decision = advance(work.lifecycle, take_record(status, work.beside), observed, now)
        status = put_record(status, decision.record, work.beside)
        if work.beside is None and decision.summary.state is State.DONE:
            message = decision.summary.message
            continue
        return Progress(
            status,
            decision.summary,
            work.beside is not None,
            message,
            decision.workload,
            decision.stop,
            decision.again_after,
        )
    return Progress(status, waits, waits is not None, message)
