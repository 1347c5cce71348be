"""The life that every kind with attempts shares: created → running → (retry) → done, or failed, or suspended.

An attempt's number is written to the status before its Workload is wanted, and a new attempt is wanted only when
nothing of the last one is left, so there is never more than one writer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from psr_operator.api.common import Attempts, Failure, Resource, Retries, WorkStatus
from psr_operator.conditions import State, Summary, status_fields, transition
from psr_operator.planner.names import child_name
from psr_operator.planner.types import ExitClass, Observed, Phase, Placement, Plan, Workload, WorkloadState
from psr_runtime.config import StageConfig
from psr_runtime.protocol import FailureReason

LONGEST_BACKOFF = 300.0


@dataclass(frozen=True)
class Step:
    """One Workload in an object's life.

    Attributes:
        key: name in the status.
        stage: of the runtime.
        configurations: makes the stage configurations, from the results of the steps before.
        doing: reason while it runs (`Training`).
        placement: of its processes.
        server: name of the PolicyServer that it asks.
        waits: how the object stands while this may not start yet; None when it may.
    """

    key: str
    stage: str
    configurations: Callable[[dict[str, dict[str, Any]]], tuple[StageConfig, ...]]
    doing: str
    placement: Placement = field(default_factory=Placement)
    waits: Summary | None = None
    server: str | None = None


@dataclass(frozen=True)
class Life:
    """An object with attempts, as this module needs it.

    Attributes:
        steps: in order; the object is done when the last one is.
        suspend, retries, deadline, scheduling_deadline, rerun: of its spec; deadlines in seconds.
        summary: message of a finished object, from the results of its steps.
    """

    resource: Resource
    steps: Sequence[Step]
    suspend: bool
    retries: Retries
    deadline: int | None
    rerun: str | None
    summary: Callable[[dict[str, dict[str, Any]]], str]
    scheduling_deadline: int | None = None


@dataclass(frozen=True)
class Moment:
    """One look at a life: the status as it will be stored, how the object stands, what is wanted."""

    status: WorkStatus
    summary: Summary
    workload: Workload | None = None
    stop: tuple[str, ...] = ()
    again_after: float | None = None


def plan_life(life: Life, observed: Observed, now: datetime) -> Plan:
    """The plan of an object that is nothing but its steps."""
    moment = live(life, observed, now)
    resource = life.resource
    return Plan(
        status=moment.status.model_copy(update=status_fields(moment.summary, resource, now)),
        workloads=(moment.workload,) if moment.workload else (),
        stop=moment.stop,
        transition=transition(resource, moment.summary),
        again_after=moment.again_after,
    )


def live(life: Life, observed: Observed, now: datetime) -> Moment:
    """Finished → failed → suspended → the current step. `status` in the result has no conditions yet."""
    status: WorkStatus = life.resource.status
    if status.rerun != life.rerun:
        if any(not item.gone for item in observed.workloads):
            stop = tuple(item.name for item in observed.workloads if not item.gone)
            return Moment(status, Summary(State.WORKING, "Rerunning", "waiting for the last attempt to end"), stop=stop)
        status = _known_attempts(life, _fresh_counts(status), observed).model_copy(
            update={"rerun": life.rerun, "done": {}, "failure": None, "output": None, "digest": None}
        )
    step = next((item for item in life.steps if item.key not in status.done), None)
    if step is None:
        return _finished(life, status)
    if status.failure is not None and status.failure.generation == life.resource.metadata.generation:
        return _failed(status, observed)
    if status.failure is not None:  # the spec was changed: another try
        status = _fresh_counts(status).model_copy(update={"failure": None})
    if life.suspend:
        return _suspended(status, step, observed, now)
    return _advance(life, step, status, observed, now)


def _finished(life: Life, status: WorkStatus) -> Moment:
    last = status.done[life.steps[-1].key]
    status = status.model_copy(
        update={
            "output": last.get("output"),
            "digest": last.get("digest"),
            "step": "Done",
            "progress": "100%",
            "running_since": None,
        }
    )
    return Moment(status, Summary(State.DONE, "Succeeded", life.summary(status.done)))


def _failed(status: WorkStatus, observed: Observed) -> Moment:
    assert status.failure is not None
    return _stalled(status, tuple(item.name for item in observed.workloads if not item.gone))


def _stalled(status: WorkStatus, left: tuple[str, ...]) -> Moment:
    """Stalled once nothing is left: until then it may hold GPUs, and a parent would give them to others."""
    assert status.failure is not None
    if left:
        message = f"waiting for {left[0]} to end after {status.failure.reason}: {status.failure.message}"
        return Moment(status, Summary(State.WORKING, "Failing", message), stop=left)
    return Moment(status, Summary(State.FAILED, status.failure.reason, status.failure.message))


def _suspended(status: WorkStatus, step: Step, observed: Observed, now: datetime) -> Moment:
    """Stop the attempt: it is over and not counted, even if the work is resumed before anybody saw its end."""
    status = _close(_clock(status, running=False, now=now), step.key).model_copy(update={"progress": ""})
    left = tuple(item.name for item in observed.workloads if not item.gone)
    if left:
        message = f"waiting for {len(left)} workload(s) to end"
        return Moment(status, Summary(State.SUSPENDED, "Suspended", message), stop=left)
    return Moment(status, Summary(State.SUSPENDED, "Suspended", "suspended; set suspend: false to go on"))


def _advance(life: Life, step: Step, status: WorkStatus, observed: Observed, now: datetime) -> Moment:
    """Carry the current step on: wait, start an attempt, watch it, and take its end."""
    attempts = status.attempts.get(step.key, Attempts())
    if not attempts.open:
        return _start(life, step, status, attempts, observed, now)
    name = _attempt_name(life, step, attempts.attempt)
    state = observed.workload(name)
    if state is None:
        if not attempts.observed:
            if step.waits is not None:  # what it needs went between the intent and the Workload
                return Moment(status.model_copy(update={"step": step.doing}), step.waits)
            return Moment(
                status, Summary(State.WORKING, "Starting", f"starting {name}"), workload=_workload(life, step, status)
            )
        state = WorkloadState(
            name, attempts.attempt, Phase.FAILED, ExitClass.DISRUPTION, message=f"{name} was deleted", gone=True
        )
    status = _with(status, step.key, attempts.model_copy(update={"observed": True}))
    if state.phase is Phase.SUCCEEDED:
        return _succeeded(life, step, status, state, now)
    if state.phase is Phase.FAILED:
        return _ended(life, step, status, state, now)
    return _running(life, step, status, state, now)


def _start(life: Life, step: Step, status: WorkStatus, attempts: Attempts, observed: Observed, now: datetime) -> Moment:
    """Write down the next attempt, once nothing is left of the last and nothing is to be waited for."""
    found = max(
        (item for item in observed.workloads if _of_step(life, step, item)), key=lambda item: item.attempt, default=None
    )
    if found is not None and found.attempt > attempts.attempt:
        # An attempt that the status does not know of: the status was lost. It is taken up, whatever it has come to.
        taken = attempts.model_copy(update={"attempt": found.attempt, "open": True, "observed": True})
        return _advance(life, step, _with(status, step.key, taken), observed, now)
    left = tuple(item.name for item in observed.workloads if not item.gone)
    if left:
        summary = Summary(State.WORKING, "WaitingForPods", f"waiting for {left[0]} to end")
        return Moment(status, summary, stop=left)
    if step.waits is not None:
        return Moment(status.model_copy(update={"step": step.doing}), step.waits)
    pause = attempts.retry_at - now.timestamp()
    if pause > 0:
        message = f"attempt {attempts.attempt + 1} of {step.key} starts in {pause:.0f} s"
        ready = status.condition("Ready")
        if ready is not None and ready.reason == "Retrying":
            message = ready.message
        return Moment(status, Summary(State.WORKING, "Retrying", message), again_after=pause)
    attempts = attempts.model_copy(update={"attempt": attempts.attempt + 1, "open": True, "observed": False})
    status = _with(status, step.key, attempts).model_copy(
        update={"step": step.doing, "progress": "", "pending_since": None}
    )
    name = _attempt_name(life, step, attempts.attempt)
    return Moment(status, Summary(State.WORKING, "Starting", f"starting {name}"), again_after=0.0)


def _running(life: Life, step: Step, status: WorkStatus, state: WorkloadState, now: datetime) -> Moment:
    pending = state.phase is Phase.PENDING
    status = _waiting(_clock(status, running=not pending, now=now), waiting=pending and not state.queued, now=now)
    again = None
    if status.pending_since is not None and life.scheduling_deadline is not None:
        left = life.scheduling_deadline - (now.timestamp() - status.pending_since)
        if left <= 0:
            message = (
                f"{state.name} found no node within schedulingDeadlineSeconds ({life.scheduling_deadline}): "
                f"{state.message or 'the scheduler gave no reason'}"
            )
            return _fail(life, status, "SchedulingDeadlineExceeded", message, state)
        again = left
    if life.deadline is not None and not pending:
        left = life.deadline - _active(status, now)
        if left <= 0:
            message = f"{state.name} ran longer than activeDeadlineSeconds ({life.deadline})"
            return _fail(life, status, "DeadlineExceeded", message, state)
        again = left
    if pending:
        summary = Summary(State.WORKING, "Pending", state.message or f"{state.name} waits to be scheduled")
    else:
        summary = Summary(State.WORKING, step.doing, f"{state.name} runs")
    status = status.model_copy(update={"step": step.doing, "progress": _percent(state)})
    return Moment(status, summary, workload=_workload(life, step, status), again_after=again)


def _succeeded(life: Life, step: Step, status: WorkStatus, state: WorkloadState, now: datetime) -> Moment:
    if not state.gone:
        summary = Summary(State.WORKING, step.doing, f"{state.name} is ending")
        return Moment(status, summary, workload=_workload(life, step, status))
    if state.result is None:
        # The stage is idempotent: asked again it prints its result. That is no failure of the work.
        lost = replace(state, exit_class=ExitClass.TEMPORARY, message="its result could not be read")
        return _ended(life, step, status, lost, now)
    status = _close(_clock(status, running=False, now=now), step.key)
    status = status.model_copy(update={"done": {**status.done, step.key: dict(state.result)}, "active_seconds": 0.0})
    following = next((item for item in life.steps if item.key not in status.done), None)
    if following is None:
        return _finished(life, status)
    summary = Summary(State.WORKING, "Starting", f"{state.name} is done")
    return Moment(status.model_copy(update={"progress": ""}), summary, again_after=0.0)


def _ended(life: Life, step: Step, status: WorkStatus, state: WorkloadState, now: datetime) -> Moment:
    """An attempt failed: for good, or to be repeated after a pause."""
    ended = state.exit_class or ExitClass.FAILURE
    if ended.final:
        return _fail(life, _close(_clock(status, running=False, now=now), step.key), ended.value, state.message, state)
    if not state.gone:
        return Moment(status, Summary(State.WORKING, "Retrying", f"{state.name} failed: {state.message}"))
    attempts = status.attempts[step.key]
    if ended in (ExitClass.DISRUPTION, ExitClass.TEMPORARY):
        attempts = attempts.model_copy(update={"disruptions": attempts.disruptions + 1})
        over, limit, what = attempts.disruptions > life.retries.max_disruptions, "maxDisruptions", "disruptions"
    else:
        attempts = attempts.model_copy(update={"failures": attempts.failures + 1})
        over, limit, what = attempts.failures > life.retries.backoff_limit, "backoffLimit", "failures"
    count = attempts.failures if what == "failures" else attempts.disruptions
    pause = min(life.retries.backoff_seconds * 2.0 ** max(0, count - 1), LONGEST_BACKOFF)
    attempts = attempts.model_copy(update={"open": False, "retry_at": now.timestamp() + pause})
    status = _with(_clock(status, running=False, now=now), step.key, attempts).model_copy(update={"progress": ""})
    if over:
        reason = "BackoffLimitExceeded" if limit == "backoffLimit" else "TooManyDisruptions"
        return _fail(life, status, reason, f"{count} {what}, more than {limit}; the last one: {state.message}", state)
    message = f"{state.name} ended ({ended.value}): {state.message or 'no message'}; again in {pause:.0f} s"
    return Moment(status, Summary(State.WORKING, "Retrying", message), again_after=pause)


def _fail(life: Life, status: WorkStatus, reason: str, message: str, state: WorkloadState) -> Moment:
    if message.startswith("StorageInUse"):
        reason, message = "StorageInUse", message.removeprefix("StorageInUse: ")
    if state.reason is FailureReason.STORAGE_IN_USE:
        reason = state.reason.value
    failure = Failure(reason=reason, message=message[:1000], generation=life.resource.metadata.generation)
    for key, attempts in status.attempts.items():
        if attempts.open:
            status = _close(status, key)
    status = status.model_copy(update={"failure": failure, "running_since": None, "progress": ""})
    return _stalled(status, () if state.gone else (state.name,))


def _workload(life: Life, step: Step, status: WorkStatus) -> Workload:
    attempt = status.attempts[step.key].attempt
    return Workload(
        name=_attempt_name(life, step, attempt),
        stage=step.stage,
        configurations=step.configurations(status.done),
        attempt=attempt,
        placement=step.placement,
        server=step.server,
    )


def _attempt_name(life: Life, step: Step, attempt: int) -> str:
    return child_name(*_base(life, step), f"a{attempt}")


def _base(life: Life, step: Step) -> tuple[str, ...]:
    name = life.resource.metadata.name
    return (name,) if len(life.steps) == 1 else (name, step.key)


def _of_step(life: Life, step: Step, state: WorkloadState) -> bool:
    return state.name == _attempt_name(life, step, state.attempt)


def _fresh_counts(status: WorkStatus) -> WorkStatus:
    """Only the numbers of the attempts go on; what they count to and how long they ran starts anew."""
    attempts = {key: Attempts(attempt=item.attempt) for key, item in status.attempts.items()}
    return status.model_copy(update={"attempts": attempts, "active_seconds": 0.0, "running_since": None})


def _known_attempts(life: Life, status: WorkStatus, observed: Observed) -> WorkStatus:
    """The numbers of attempts that exist count as used, whether or not the status knew of them."""
    for step in life.steps:
        for item in observed.workloads:
            known = status.attempts.get(step.key, Attempts())
            if _of_step(life, step, item) and item.attempt > known.attempt:
                status = _with(status, step.key, known.model_copy(update={"attempt": item.attempt}))
    return status


def _with(status: WorkStatus, key: str, attempts: Attempts) -> WorkStatus:
    return status.model_copy(update={"attempts": {**status.attempts, key: attempts}})


def _close(status: WorkStatus, key: str) -> WorkStatus:
    """The last attempt is over and counts for nothing."""
    attempts = status.attempts.get(key)
    if attempts is None or not attempts.open:
        return status
    return _with(status, key, attempts.model_copy(update={"open": False, "retry_at": 0.0}))


def _clock(status: WorkStatus, *, running: bool, now: datetime) -> WorkStatus:
    """Start or stop counting running time; pending and suspended time is not counted."""
    if running and status.running_since is None:
        return status.model_copy(update={"running_since": now.timestamp()})
    if not running and status.running_since is not None:
        return status.model_copy(update={"running_since": None, "active_seconds": _active(status, now)})
    return status


def _waiting(status: WorkStatus, *, waiting: bool, now: datetime) -> WorkStatus:
    """Start or stop counting how long an attempt waits for a node."""
    if waiting == (status.pending_since is not None):
        return status
    return status.model_copy(update={"pending_since": now.timestamp() if waiting else None})


def _active(status: WorkStatus, now: datetime) -> float:
    since = now.timestamp() - status.running_since if status.running_since is not None else 0.0
    return status.active_seconds + since


def _percent(state: WorkloadState) -> str:
    if state.progress is None:
        return ""
    eta = f", {state.eta:.0f} s left" if state.eta is not None else ""
    return f"{state.progress:.0%}{eta}"
