"""Several lifecycles in one status: each has a name of its own, and what ends one leaves the others alone."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from psr_operator.api.common import Attempts, Condition, Failure, Retries
from psr_operator.api.run import SelfRewardRunStatus
from psr_operator.conditions import State
from psr_operator.planner.lifecycle import Lifecycle, Task, advance
from psr_operator.planner.own_work import OwnWork, carry_on
from psr_operator.planner.record import put_record, take_record
from psr_operator.planner.types import ExitClass, Observed, Phase, WorkloadState
from psr_operator.reasons import Reason
from psr_runtime.protocol import FailureReason

NOW = datetime(2026, 1, 1, tzinfo=UTC)
FAILURE = Failure(reason="DataError", message="foreign", generation=1)


def lifecycle(key: str) -> Lifecycle:
    return Lifecycle(
        name=f"run-{key}",
        generation=1,
        tasks=[Task(key, "report", lambda _: (), Reason.REPORTING)],
        summary=lambda done: f"{key} is done",
        suspend=False,
        retries=Retries(),
    )


def ended(name: str, **fields: object) -> Observed:
    return Observed(workloads=(WorkloadState(name, 1, gone=True, **fields),))  # type: ignore[arg-type]


def open_attempt(*keys: str) -> SelfRewardRunStatus:
    return SelfRewardRunStatus(attempts={key: Attempts(attempt=1, open=True, observed=True) for key in keys})


def test_a_record_that_is_put_back_as_it_is_changes_nothing() -> None:
    status = SelfRewardRunStatus(
        attempts={"report-m2": Attempts(attempt=2, open=True)},
        failure=FAILURE,
        unpruned={"M1": FAILURE},
        output="s3://bucket/report",
        digest="sha256:1",
        running_since=5.0,
        step="Reporting",
    )
    for beside in (None, "M1", "M2"):
        assert put_record(status, take_record(status, beside), beside) == status


def test_the_failure_of_work_beside_is_not_the_objects() -> None:
    status = open_attempt("prune-m1").model_copy(update={"output": "s3://bucket/report", "digest": "sha256:1"})
    observed = ended("run-prune-m1-a1", phase=Phase.FAILED, exit_class=ExitClass.DATA, message="foreign")
    decision = advance(lifecycle("prune-m1"), take_record(status, "M1"), observed, NOW)
    after = put_record(status, decision.record, "M1")
    assert after.unpruned == {"M1": FAILURE}
    assert (after.failure, after.output, after.digest) == (None, "s3://bucket/report", "sha256:1")
    assert take_record(after).failure is None
    assert take_record(after, "M1").failure == FAILURE


def test_the_message_of_a_pause_is_kept_while_it_lasts() -> None:
    condition = Condition(type="Ready", status="False", reason="Retrying", message="again in 10 s")
    status = SelfRewardRunStatus(
        attempts={"report": Attempts(attempt=1, retry_at=NOW.timestamp() + 4)}, conditions=[condition]
    )
    decision = advance(lifecycle("report"), take_record(status), Observed(), NOW)
    assert (decision.summary.reason, decision.summary.message) == (Reason.RETRYING, "again in 10 s")
    assert decision.again_after == 4


@pytest.mark.parametrize(
    ("exit_class", "sent", "reason"),
    [
        (ExitClass.DATA, None, Reason.DATA_ERROR),
        (ExitClass.DATA, FailureReason.STORAGE_IN_USE, Reason.STORAGE_IN_USE),
        (ExitClass.MISSING, FailureReason.WEIGHTS_PRUNED, Reason.WEIGHTS_PRUNED),
        (ExitClass.MISSING, FailureReason.INPUT_MISSING, Reason.INPUT_MISSING),
    ],
)
def test_the_stage_s_own_reason_comes_first(exit_class: ExitClass, sent: FailureReason | None, reason: Reason) -> None:
    observed = ended("run-report-a1", phase=Phase.FAILED, exit_class=exit_class, reason=sent, message="why")
    decision = advance(lifecycle("report"), take_record(open_attempt("report")), observed, NOW)
    assert (decision.summary.state, decision.summary.reason, decision.summary.message) == (State.FAILED, reason, "why")


def test_own_work_goes_on_in_order_and_waits_only_where_it_must() -> None:
    report, removal = lifecycle("report"), lifecycle("prune-m1")
    waits = advance(removal, take_record(SelfRewardRunStatus()), Observed(), NOW).summary
    works = [OwnWork(report), OwnWork(removal, "M1", waits)]
    first = carry_on(works, SelfRewardRunStatus(), Observed(), NOW)
    assert set(first.status.attempts) == {"report"}
    done = SelfRewardRunStatus(done={"report": {"output": "s3://bucket/report", "digest": "sha256:1"}})
    blocked = carry_on(works, done, Observed(), NOW)
    assert (blocked.summary, blocked.beside, blocked.message) == (waits, True, "report is done")
    begun = carry_on([OwnWork(report), OwnWork(removal, "M1")], done, Observed(), NOW)
    assert set(begun.status.attempts) == {"prune-m1"}
    assert (begun.beside, begun.status.output) == (True, "s3://bucket/report")
    assert carry_on([OwnWork(report)], done, Observed(), NOW).summary is None
