"""The lifecycle that everything with attempts shares: created → running → (retry) → done, or failed, or suspended.

An attempt's number is written to the status before its Workload is wanted, and a new attempt is wanted only when
nothing of the last one is left, so there is never more than one writer. A lifecycle has a name of its own, and its
Workloads are named after it: an object can have several.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from psr_operator.api.common import Attempts, Failure, Retries
from psr_operator.conditions import State, Summary
from psr_operator.planner.endings import with_hanging
from psr_operator.planner.names import child_name
from psr_operator.planner.record import Record
from psr_operator.planner.results import Results
from psr_operator.planner.types import ExitClass, Observed, Phase, Placement, Workload, WorkloadState
from psr_operator.reasons import Reason, reason_of, reason_of_failure
from psr_runtime.config import StageConfig

LONGEST_BACKOFF = 300.0


@dataclass(frozen=True)
class Task:
    """One Workload in a lifecycle.

    Attributes:
        key: name in the status.
        stage: of the runtime.
        configurations: makes the stage configurations, from the results of the tasks before.
        reason: of the object while it runs (`Training`).
        placement: of its processes.
        waits: how the object is described while this may not start yet; None when it may.
        server: name of the PolicyServer that it asks.
    """

    key: str
    stage: str
    configurations: Callable[[Results], tuple[StageConfig, ...]]
    reason: Reason
    placement: Placement = field(default_factory=Placement)
    waits: Summary | None = None
    server: str | None = None


@dataclass(frozen=True)
class Lifecycle:
    """Tasks one after the other, and how they are carried out.

    Attributes:
        name: base of its Workloads' names; unique among the objects and lifecycles of a namespace.
        generation: of the spec; another generation gives failed work another try.
        tasks: in order; it is done when the last one is.
        summary: message of the finished lifecycle, from the results of its tasks.
        suspend, retries, deadline, scheduling_deadline, rerun: as the spec says; deadlines in seconds.
    """

    name: str
    generation: int
    tasks: Sequence[Task]
    summary: Callable[[Results], str]
    suspend: bool
    retries: Retries
    deadline: int | None = None
    scheduling_deadline: int | None = None
    rerun: str | None = None

    def attempt_name(self, task: Task, attempt: int) -> str:
        """Name of a task's Workload; a single task is not named."""
        base = (self.name,) if len(self.tasks) == 1 else (self.name, task.key)
        return child_name(*base, f"a{attempt}")

    def current(self, record: Record) -> Task | None:
        """The first task that is not done; None when all are."""
        return next((task for task in self.tasks if task.key not in record.done), None)

    def is_under_way(self, record: Record, observed: Observed) -> bool:
        """Whether an attempt is to be carried out, or something of the last one is left."""
        for task in self.tasks:
            attempts = record.attempts_of(task.key)
            state = observed.workload(self.attempt_name(task, attempts.attempt))
            if attempts.open or (state is not None and not state.gone):
                return True
        return False


@dataclass(frozen=True)
class Decision:
    """What comes next in a lifecycle: the record to be stored, its summary, and what is wanted.

    Attributes:
        workload: to exist.
        stop: names of Workloads to be stopped.
        again_after: seconds after which to look again even if nothing is observed; None: no need.
    """

    record: Record
    summary: Summary
    workload: Workload | None = None
    stop: tuple[str, ...] = ()
    again_after: float | None = None


def advance(lifecycle: Lifecycle, record: Record, observed: Observed, now: datetime) -> Decision:
    """Finished → failed → suspended → the current task.

    Args:
        record: as it is stored.
        observed: what the lifecycle's object owns.
        now: aware time.
    """
    left = tuple(item for item in observed.workloads if not item.gone)
    if record.rerun != lifecycle.rerun:
        if left:
            summary = Summary(State.WORKING, Reason.RERUNNING, "waiting for the last attempt to end")
            return _until_gone(record, summary, left, now)
        record = _known_attempts(lifecycle, record.uncounted(), observed)
        record = replace(record, rerun=lifecycle.rerun, done={}, failure=None, output=None, digest=None)
    task = lifecycle.current(record)
    if task is None:
        return _finished(lifecycle, record)
    if record.failure is not None and record.failure.generation == lifecycle.generation:
        return _stalled(record, record.failure, left, now)
    if record.failure is not None:  # the spec was changed: another try
        record = replace(record.uncounted(), failure=None)
    if lifecycle.suspend:
        return _suspended(record, task, left, now)
    return _Advance(lifecycle, task, observed, now).decide(record)


def _finished(lifecycle: Lifecycle, record: Record) -> Decision:
    last = record.done[lifecycle.tasks[-1].key]
    record = replace(
        record,
        output=last.get("output"),
        digest=last.get("digest"),
        step="Done",
        progress="100%",
        running_since=None,
    )
    return Decision(record, Summary(State.DONE, Reason.SUCCEEDED, lifecycle.summary(record.done)))


def _until_gone(
    record: Record, summary: Summary, left: Sequence[WorkloadState], now: datetime, *, stop: bool = True
) -> Decision:
    """Wait until nothing is left of these; a pod that hangs is named."""
    summary, again = with_hanging(summary, left, now)
    return Decision(record, summary, stop=tuple(item.name for item in left) if stop else (), again_after=again)


def _stalled(record: Record, failure: Failure, left: Sequence[WorkloadState], now: datetime) -> Decision:
    """Stalled once nothing is left: until then it may hold GPUs, and a parent would give them to others."""
    if left:
        message = f"waiting for {left[0].name} to end after {failure.reason}: {failure.message}"
        return _until_gone(record, Summary(State.WORKING, Reason.FAILING, message), left, now)
    return Decision(record, Summary(State.FAILED, reason_of(failure.reason), failure.message))


def _suspended(record: Record, task: Task, left: Sequence[WorkloadState], now: datetime) -> Decision:
    """Stop the attempt: it has ended and is not counted, even if the work is resumed before anybody saw its end."""
    record = replace(record.clocked(running=False, now=now).closed(task.key), progress="")
    if left:
        summary = Summary(State.SUSPENDED, Reason.SUSPENDED, f"waiting for {len(left)} workload(s) to end")
        return _until_gone(record, summary, left, now)
    return Decision(record, Summary(State.SUSPENDED, Reason.SUSPENDED, "suspended; set suspend: false to go on"))


@dataclass(frozen=True)
class _Advance:
    """The current task of a lifecycle, and what is seen of it: wait, start an attempt, watch it, and take its end."""

    lifecycle: Lifecycle
    task: Task
    observed: Observed
    now: datetime

    def decide(self, record: Record) -> Decision:
        """What comes next for the task."""
        task = self.task
        attempts = record.attempts_of(task.key)
        if not attempts.open:
            return self._start(record, attempts)
        name = self.lifecycle.attempt_name(task, attempts.attempt)
        state = self.observed.workload(name)
        if state is None:
            if not attempts.observed:
                if task.waits is not None:  # what it needs went between the intent and the Workload
                    return Decision(replace(record, step=str(task.reason)), task.waits)
                summary = Summary(State.WORKING, Reason.STARTING, f"starting {name}")
                return Decision(record, summary, workload=self._workload(record))
            state = WorkloadState(
                name, attempts.attempt, Phase.FAILED, ExitClass.DISRUPTION, message=f"{name} was deleted", gone=True
            )
        record = record.with_attempts(task.key, attempts.model_copy(update={"observed": True}))
        if state.phase is Phase.SUCCEEDED:
            return self._succeeded(record, state)
        if state.phase is Phase.FAILED:
            return self._ended(record, state)
        return self._running(record, state)

    def _start(self, record: Record, attempts: Attempts) -> Decision:
        """Write down the next attempt, once nothing is left of the last and nothing is to be waited for."""
        task, now = self.task, self.now
        known = [item for item in self.observed.workloads if _is_attempt_of(self.lifecycle, task, item)]
        latest = max(known, key=lambda item: item.attempt, default=None)
        if latest is not None and latest.attempt > attempts.attempt:
            # An attempt that the status does not know of: the status was lost. It is taken up, whatever it has come to.
            taken = attempts.model_copy(update={"attempt": latest.attempt, "open": True, "observed": True})
            return self.decide(record.with_attempts(task.key, taken))
        left = tuple(item for item in self.observed.workloads if not item.gone)
        if left:
            summary = Summary(State.WORKING, Reason.WAITING_FOR_PODS, f"waiting for {left[0].name} to end")
            return _until_gone(record, summary, left, now)
        if task.waits is not None:
            return Decision(replace(record, step=str(task.reason)), task.waits)
        pause = attempts.retry_at - now.timestamp()
        if pause > 0:
            message = record.retrying or f"attempt {attempts.attempt + 1} of {task.key} starts in {pause:.0f} s"
            return Decision(record, Summary(State.WORKING, Reason.RETRYING, message), again_after=pause)
        attempts = attempts.model_copy(update={"attempt": attempts.attempt + 1, "open": True, "observed": False})
        record = replace(
            record.with_attempts(task.key, attempts), step=str(task.reason), progress="", pending_since=None
        )
        name = self.lifecycle.attempt_name(task, attempts.attempt)
        return Decision(record, Summary(State.WORKING, Reason.STARTING, f"starting {name}"), again_after=0.0)

    def _running(self, record: Record, state: WorkloadState) -> Decision:
        lifecycle, task, now = self.lifecycle, self.task, self.now
        pending = state.phase is Phase.PENDING
        record = record.clocked(running=not pending, now=now)
        record = record.queued(waiting=pending and not state.queued, now=now)
        again = None
        if record.pending_since is not None and lifecycle.scheduling_deadline is not None:
            again = lifecycle.scheduling_deadline - (now.timestamp() - record.pending_since)
            if again <= 0:
                message = (
                    f"{state.name} found no node within schedulingDeadlineSeconds ({lifecycle.scheduling_deadline}): "
                    f"{state.message or 'the scheduler gave no reason'}"
                )
                return self._fail(record, Reason.SCHEDULING_DEADLINE_EXCEEDED, message, state)
        if lifecycle.deadline is not None and not pending:
            again = lifecycle.deadline - record.seconds_of_running(now)
            if again <= 0:
                message = f"{state.name} ran longer than activeDeadlineSeconds ({lifecycle.deadline})"
                return self._fail(record, Reason.DEADLINE_EXCEEDED, message, state)
        if pending:
            message, reason = state.message or f"{state.name} waits to be scheduled", Reason.PENDING
        else:
            message, reason = state.message or f"{state.name} runs", task.reason
        summary = Summary(State.WORKING, reason, message, state.blocked)
        record = replace(record, step=str(task.reason), progress=_percent(state))
        return Decision(record, summary, workload=self._workload(record), again_after=again)

    def _succeeded(self, record: Record, state: WorkloadState) -> Decision:
        task = self.task
        if not state.gone:
            summary = Summary(State.WORKING, task.reason, f"{state.name} is ending")
            summary, again = with_hanging(summary, (state,), self.now)
            return Decision(record, summary, workload=self._workload(record), again_after=again)
        if state.result is None:
            # The stage is idempotent: asked again it prints its result. That is no failure of the work.
            return self._ended(
                record, replace(state, exit_class=ExitClass.TEMPORARY, message="its result could not be read")
            )
        record = record.clocked(running=False, now=self.now).closed(task.key)
        record = replace(record, done={**record.done, task.key: dict(state.result)}, active_seconds=0.0)
        if self.lifecycle.current(record) is None:
            return _finished(self.lifecycle, record)
        summary = Summary(State.WORKING, Reason.STARTING, f"{state.name} is done")
        return Decision(replace(record, progress=""), summary, again_after=0.0)

    def _ended(self, record: Record, state: WorkloadState) -> Decision:
        """An attempt failed: for good, or to be repeated after a pause."""
        ended = state.exit_class or ExitClass.FAILURE
        if ended.final:
            closed = record.clocked(running=False, now=self.now).closed(self.task.key)
            reason = reason_of_failure(state.reason) if state.reason is not None else Reason(ended.value)
            return self._fail(closed, reason, state.message.removeprefix(f"{reason}: "), state)
        if not state.gone:
            summary = Summary(State.WORKING, Reason.RETRYING, f"{state.name} failed: {state.message}")
            return _until_gone(record, summary, (state,), self.now, stop=False)
        retries, attempts = self.lifecycle.retries, record.attempts_of(self.task.key)
        if ended in (ExitClass.DISRUPTION, ExitClass.TEMPORARY):
            what, count, limit = "disruptions", attempts.disruptions + 1, retries.max_disruptions
            exceeded, bound = Reason.TOO_MANY_DISRUPTIONS, "maxDisruptions"
        else:
            what, count, limit = "failures", attempts.failures + 1, retries.backoff_limit
            exceeded, bound = Reason.BACKOFF_LIMIT_EXCEEDED, "backoffLimit"
        pause = min(retries.backoff_seconds * 2.0 ** max(0, count - 1), LONGEST_BACKOFF)
        attempts = attempts.model_copy(update={what: count, "open": False, "retry_at": self.now.timestamp() + pause})
        record = record.clocked(running=False, now=self.now).with_attempts(self.task.key, attempts)
        record = replace(record, progress="")
        if count > limit:
            message = f"{count} {what}, more than {bound}; the last one: {state.message}"
            return self._fail(record, exceeded, message, state)
        message = f"{state.name} ended ({ended.value}): {state.message or 'no message'}; again in {pause:.0f} s"
        return Decision(record, Summary(State.WORKING, Reason.RETRYING, message), again_after=pause)

    def _fail(self, record: Record, reason: Reason, message: str, state: WorkloadState) -> Decision:
        failure = Failure(reason=str(reason), message=message[:1000], generation=self.lifecycle.generation)
        for key, attempts in record.attempts.items():
            if attempts.open:
                record = record.closed(key)
        record = replace(record, failure=failure, running_since=None, progress="")
        return _stalled(record, failure, () if state.gone else (state,), self.now)

    def _workload(self, record: Record) -> Workload:
        task, attempt = self.task, record.attempts_of(self.task.key).attempt
        return Workload(
            name=self.lifecycle.attempt_name(task, attempt),
            stage=task.stage,
            configurations=task.configurations(record.done),
            attempt=attempt,
            placement=task.placement,
            server=task.server,
        )


def _is_attempt_of(lifecycle: Lifecycle, task: Task, state: WorkloadState) -> bool:
    return state.name == lifecycle.attempt_name(task, state.attempt)


def _known_attempts(lifecycle: Lifecycle, record: Record, observed: Observed) -> Record:
    """The numbers of attempts that exist count as used, whether or not the status knew of them."""
    for task in lifecycle.tasks:
        for item in observed.workloads:
            known = record.attempts_of(task.key)
            if _is_attempt_of(lifecycle, task, item) and item.attempt > known.attempt:
                record = record.with_attempts(task.key, known.model_copy(update={"attempt": item.attempt}))
    return record


def _percent(state: WorkloadState) -> str:
    if state.progress is None:
        return ""
    eta = f", {state.eta:.0f} s left" if state.eta is not None else ""
    return f"{state.progress:.0%}{eta}"
