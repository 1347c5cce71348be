"""Reasons are typed: what stages send, what statuses hold, what `psr run` ends with."""

from __future__ import annotations

import pytest
from world import World, run_of

from psr_operator.api.common import Condition
from psr_operator.planner.asking import misses_pruned
from psr_operator.reasons import (
    REJECTED,
    OtherReason,
    Reason,
    exit_code,
    meaning,
    reason_of,
    reason_of_failure,
    rejected,
)
from psr_runtime.protocol import FailureReason


@pytest.mark.parametrize("failure", FailureReason)
def test_every_failure_of_a_stage_is_a_reason(failure: FailureReason) -> None:
    assert reason_of_failure(failure) == failure


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        ("ConfigurationError", 64),
        ("NotSupported", 64),
        ("DataError", 65),
        ("StorageInUse", 65),
        ("InputMissing", 66),
        ("WeightsPruned", 66),
        ("Temporary", 75),
        ("BackoffLimitExceeded", 1),
        ("JobRejected", 1),
        ("AWordOfANewerVersion", 1),
    ],
)
def test_psr_run_ends_with_the_code_of_the_reason(reason: str, code: int) -> None:
    assert exit_code(reason) == code


def test_a_reason_that_is_no_member_is_kept_as_it_is() -> None:
    reason = rejected("TrainJob")
    assert reason == "TrainJobRejected"
    assert isinstance(reason_of("TrainJobRejected"), OtherReason)
    assert meaning(reason) is REJECTED
    assert reason_of("Training") is Reason.TRAINING


def test_a_status_of_an_earlier_version_is_carried_on(tmp_path: object) -> None:
    """It says in words that weights were pruned; its reason is that of any missing input."""
    world = World(tmp_path, run_of(rounds=1))  # type: ignore[arg-type]
    while "run-server" not in world.node.server_specs:
        assert world.step()
    world.node.ready("run-server")
    world.settle()
    server = world.get("PolicyServer", "run-server")
    message = f"{server.spec.model.uri}: its weights were pruned by retention Last of run default/run"
    conditions = [
        Condition(type="Ready", status="False", reason="InputMissing", message=message),
        Condition(type="Stalled", status="True", reason="InputMissing", message=message),
    ]
    status = server.status.model_copy(update={"conditions": conditions, "endpoints": [], "model": None})
    world.executor.store.set_status(server, status)
    assert not misses_pruned(
        world.get("PolicyServer", "run-server"), server.spec.model.uri, "s3://bucket/runs/default/run"
    )
    world.settle()
    world.finish()
    assert world.condition() == ("Ready", "Succeeded")
