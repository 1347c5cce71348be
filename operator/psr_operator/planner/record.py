"""The record of a lifecycle: its attempts, results, failure and clocks, taken out of a status and put back.

An object whose whole work is one lifecycle has one record in its status. A run has several lifecycles there: attempts
and results are kept by task, and the failure of work beside its own (a removal of weights) in `unpruned`, so that
it is not the run's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, TypeVar

from psr_operator.api.common import Attempts, Failure, WorkStatus
from psr_operator.api.run import SelfRewardRunStatus
from psr_operator.reasons import Reason

S = TypeVar("S", bound=WorkStatus)


@dataclass(frozen=True)
class Record:
    """What is stored of a lifecycle.

    Attributes:
        attempts: by task.
        done: result of each finished task.
        failure: why it has failed for good.
        rerun: the token that `done` belongs to.
        running_since, pending_since: seconds since the epoch; None while nothing runs or waits for a node.
        active_seconds: that earlier attempts have run.
        step, progress: what is being done and how far it is, for people.
        output, digest: of the finished artefact.
        retrying: the message that says when the next attempt comes, where people read one now; it is not put back.
    """

    attempts: Mapping[str, Attempts]
    done: Mapping[str, dict[str, Any]]
    failure: Failure | None
    rerun: str | None
    running_since: float | None
    pending_since: float | None
    active_seconds: float
    step: str
    progress: str
    output: str | None
    digest: str | None
    retrying: str | None = None

    def attempts_of(self, task: str) -> Attempts:
        """The attempts of a task; before the first one, none."""
        return self.attempts.get(task, Attempts())

    def with_attempts(self, task: str, attempts: Attempts) -> Record:
        """The record with other attempts of a task."""
        return replace(self, attempts={**self.attempts, task: attempts})

    def closed(self, task: str) -> Record:
        """The record in which the last attempt of a task has ended and counts for nothing."""
        attempts = self.attempts.get(task)
        if attempts is None or not attempts.open:
            return self
        return self.with_attempts(task, attempts.model_copy(update={"open": False, "retry_at": 0.0}))

    def uncounted(self) -> Record:
        """The record in which only the numbers of the attempts go on; what they count to starts anew."""
        attempts = {key: Attempts(attempt=item.attempt) for key, item in self.attempts.items()}
        return replace(self, attempts=attempts, active_seconds=0.0, running_since=None)

    def clocked(self, *, running: bool, now: datetime) -> Record:
        """The record with the running clock started or stopped; pending and suspended time is not counted."""
        if running and self.running_since is None:
            return replace(self, running_since=now.timestamp())
        if not running and self.running_since is not None:
            return replace(self, running_since=None, active_seconds=self.seconds_of_running(now))
        return self

    def queued(self, *, waiting: bool, now: datetime) -> Record:
        """The record with the clock of waiting for a node started or stopped."""
        if waiting == (self.pending_since is not None):
            return self
        return replace(self, pending_since=now.timestamp() if waiting else None)

    def seconds_of_running(self, now: datetime) -> float:
        """Seconds that all attempts have run."""
        since = now.timestamp() - self.running_since if self.running_since is not None else 0.0
        return self.active_seconds + since


_STORED = (
    "attempts",
    "done",
    "failure",
    "rerun",
    "running_since",
    "pending_since",
    "active_seconds",
    "step",
    "progress",
    "output",
    "digest",
)
_OF_THE_OBJECT = ("failure", "output", "digest")
"""What work beside an object's own leaves alone."""


def take_record(status: WorkStatus, beside: str | None = None) -> Record:
    """The record of a lifecycle of an object.

    Args:
        beside: the model whose weights it removes, where it is such work beside a run's own.
    """
    ready = status.condition("Ready")
    retrying = ready.message if ready is not None and ready.reason == Reason.RETRYING else None
    record = Record(**{name: getattr(status, name) for name in _STORED}, retrying=retrying)
    if beside is None:
        return record
    assert isinstance(status, SelfRewardRunStatus)
    return replace(record, failure=status.unpruned.get(beside), output=None, digest=None)


def put_record(status: S, record: Record, beside: str | None = None) -> S:
    """The status with a record put back that `take_record` has taken with the same `beside`."""
    fields = {name: getattr(record, name) for name in _STORED}
    if beside is None:
        return status.model_copy(update=fields)
    assert isinstance(status, SelfRewardRunStatus)
    unpruned = {name: failure for name, failure in status.unpruned.items() if name != beside}
    if record.failure is not None:
        unpruned[beside] = record.failure
    kept = {name: value for name, value in fields.items() if name not in _OF_THE_OBJECT}
    return status.model_copy(update={**kept, "unpruned": unpruned})
