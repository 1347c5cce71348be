"""Whole lifecycles as tables: what happens, and the object's condition afterwards."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from world import MODEL, STORAGE, World, resource, run_of

from psr_operator.api.common import Attempts
from psr_operator.planner import plan
from psr_operator.planner.types import ExitClass, Observed
from psr_runtime.protocol import FailureReason

JOB = {"model": MODEL, "pairs": "s3://bucket/pairs", "storage": STORAGE}

Step = tuple[str, Callable[[World], object], tuple[str, str]]


def _do(action: Callable[[World], object]) -> Callable[[World], None]:
    def act(world: World) -> None:
        action(world)
        world.settle()

    return act


def start(name: str) -> Callable[[World], None]:
    return _do(lambda world: world.node.start(name))


def succeed(name: str) -> Callable[[World], None]:
    return _do(lambda world: world.node.succeed(name))


def fail(name: str, how: ExitClass, **kwargs: bool) -> Callable[[World], None]:
    return _do(lambda world: world.node.fail(name, how, **kwargs))


def end(name: str) -> Callable[[World], None]:
    return _do(lambda world: world.node.end(name))


def wait(seconds: float) -> Callable[[World], None]:
    return lambda world: world.pass_time(seconds)


def nothing(_: World) -> None:
    """Only look."""


LIFECYCLES: dict[str, tuple[dict[str, object], list[Step]]] = {
    "created, running, ready": (
        {},
        [
            ("created", nothing, ("Reconciling", "Pending")),
            ("runs", start("it-a1"), ("Reconciling", "Training")),
            ("done", succeed("it-a1"), ("Ready", "Succeeded")),
            ("much later", wait(1e6), ("Ready", "Succeeded")),
        ],
    ),
    "a failure is retried after a pause, by a new attempt": (
        {},
        [
            ("runs", start("it-a1"), ("Reconciling", "Training")),
            ("fails, pod still there", fail("it-a1", ExitClass.FAILURE, gone=False), ("Reconciling", "Retrying")),
            ("pod gone", end("it-a1"), ("Reconciling", "Retrying")),
            ("still pausing", wait(9), ("Reconciling", "Retrying")),
            ("after the pause", wait(2), ("Reconciling", "Pending")),
            ("second attempt runs", start("it-a2"), ("Reconciling", "Training")),
            ("done", succeed("it-a2"), ("Ready", "Succeeded")),
        ],
    ),
    "backoffLimit": (
        {"retries": {"backoffLimit": 1, "backoffSeconds": 0}},
        [
            ("first fails", fail("it-a1", ExitClass.FAILURE), ("Reconciling", "Pending")),
            ("second fails", fail("it-a2", ExitClass.FAILURE), ("Stalled", "BackoffLimitExceeded")),
        ],
    ),
    "disruptions have a limit of their own": (
        {"retries": {"backoffLimit": 0, "maxDisruptions": 2, "backoffSeconds": 0}},
        [
            ("drained", fail("it-a1", ExitClass.DISRUPTION), ("Reconciling", "Pending")),
            ("stopped", fail("it-a2", ExitClass.TEMPORARY), ("Reconciling", "Pending")),
            ("drained again", fail("it-a3", ExitClass.DISRUPTION), ("Stalled", "TooManyDisruptions")),
        ],
    ),
    "a missing input is never retried": (
        {},
        [
            ("exit 66", fail("it-a1", ExitClass.MISSING), ("Stalled", "InputMissing")),
            ("later", wait(1e6), ("Stalled", "InputMissing")),
        ],
    ),
    "wrong data is never retried": ({}, [("exit 65", fail("it-a1", ExitClass.DATA), ("Stalled", "DataError"))]),
    "a wrong configuration is never retried": (
        {},
        [("exit 64", fail("it-a1", ExitClass.CONFIGURATION), ("Stalled", "ConfigurationError"))],
    ),
    "a foreign prefix is named": (
        {},
        [
            (
                "exit 65",
                _do(
                    lambda world: world.node.fail(
                        "it-a1", ExitClass.DATA, "s3://bucket is taken", reason=FailureReason.STORAGE_IN_USE
                    )
                ),
                ("Stalled", "StorageInUse"),
            )
        ],
    ),
    "suspended and resumed, uncounted": (
        {"retries": {"backoffLimit": 0, "maxDisruptions": 0}},
        [
            ("runs", start("it-a1"), ("Reconciling", "Training")),
            ("suspended", lambda world: world.change(suspend=True), ("Suspended", "Suspended")),
            ("pod gone", end("it-a1"), ("Suspended", "Suspended")),
            ("resumed", lambda world: world.change(suspend=False), ("Reconciling", "Pending")),
            ("runs", start("it-a2"), ("Reconciling", "Training")),
            ("done", succeed("it-a2"), ("Ready", "Succeeded")),
        ],
    ),
    "resumed before the pod is gone: it waits, and counts nothing": (
        {"retries": {"backoffLimit": 0, "maxDisruptions": 0}},
        [
            ("suspended", lambda world: world.change(suspend=True), ("Suspended", "Suspended")),
            ("resumed at once", lambda world: world.change(suspend=False), ("Reconciling", "WaitingForPods")),
            ("pod gone", end("it-a1"), ("Reconciling", "Pending")),
        ],
    ),
    "activeDeadlineSeconds counts running time only": (
        {"activeDeadlineSeconds": 100},
        [
            ("pending for long", wait(1000), ("Reconciling", "Pending")),
            ("runs", start("it-a1"), ("Reconciling", "Training")),
            ("runs", wait(60), ("Reconciling", "Training")),
            ("suspended", lambda world: world.change(suspend=True), ("Suspended", "Suspended")),
            ("pod gone", end("it-a1"), ("Suspended", "Suspended")),
            ("suspended for long", wait(1000), ("Suspended", "Suspended")),
            ("resumed", lambda world: world.change(suspend=False), ("Reconciling", "Pending")),
            ("runs", start("it-a2"), ("Reconciling", "Training")),
            ("39 s", wait(39), ("Reconciling", "Training")),
            ("41 s", wait(2), ("Reconciling", "Failing")),
            ("its pods are gone", end("it-a2"), ("Stalled", "DeadlineExceeded")),
        ],
    ),
    "a deleted Workload is made again, as a disruption": (
        {"retries": {"backoffSeconds": 0}},
        [
            ("runs", start("it-a1"), ("Reconciling", "Training")),
            ("deleted", _do(lambda world: world.node.vanish("it-a1")), ("Reconciling", "Pending")),
            ("second attempt", succeed("it-a2"), ("Ready", "Succeeded")),
        ],
    ),
    "rerun makes finished work again": (
        {},
        [
            ("done", succeed("it-a1"), ("Ready", "Succeeded")),
            ("rerun", lambda world: world.change(rerun="again"), ("Reconciling", "Pending")),
            ("done", succeed("it-a2"), ("Ready", "Succeeded")),
        ],
    ),
    "a changed spec gives a stalled object another try": (
        {"retries": {"backoffLimit": 0}},
        [
            ("fails", fail("it-a1", ExitClass.FAILURE), ("Stalled", "BackoffLimitExceeded")),
            (
                "more memory",
                lambda world: (
                    world.change(resources=world.root.spec.resources.model_copy(update={"memory": "64Gi"})),
                    world.pass_time(60),
                ),
                ("Reconciling", "Pending"),
            ),
        ],
    ),
}


@pytest.mark.parametrize("lifecycle", LIFECYCLES)
def test_lifecycle_of_a_job(lifecycle: str, tmp_path: Path) -> None:
    spec, steps = LIFECYCLES[lifecycle]
    world = World(tmp_path, resource("StepDPOJob", **JOB, **spec))
    for what, act, expected in steps:
        act(world)
        assert world.condition() == expected, what
        assert world.root.status.observed_generation == world.root.metadata.generation, what


@pytest.mark.parametrize(
    ("resources", "named"), [({"gpus": 8}, "1 nodes × 8 GPUs"), ({"nodes": 2, "gpus": 1}, "2 nodes × 1 GPUs")]
)
@pytest.mark.parametrize("kind", ["StepDPOJob", "SFTJob"])
def test_training_that_would_leave_gpus_idle_is_refused(
    tmp_path: Path, kind: str, resources: dict[str, int], named: str
) -> None:
    data = JOB if kind == "StepDPOJob" else {"model": MODEL, "storage": STORAGE, "ift": "s3://bucket/ift.jsonl"}
    world = World(tmp_path, resource(kind, **data, resources=resources))
    assert world.condition() == ("Stalled", "NotSupported")
    assert f"training on {named} is not built yet" in world.root.status.conditions[0].message
    assert world.node.order == []
    world.change(resources=world.root.spec.resources.model_copy(update={"gpus": 1, "nodes": 1}))
    assert world.condition() == ("Reconciling", "Pending")


def test_rerun_writes_to_a_folder_of_its_own(tmp_path: Path) -> None:
    world = World(tmp_path, resource("StepDPOJob", **JOB))
    succeed("it-a1")(world)
    world.change(rerun="again")
    outputs = [workload.outputs for workload in world.node.specs.values()]
    assert outputs == [
        ("s3://bucket/runs/default/it/checkpoint",),
        ("s3://bucket/runs/default/it/checkpoint/rerun-again",),
    ]


def test_shards_are_searched_and_then_merged(tmp_path: Path) -> None:
    world = World(
        tmp_path,
        resource(
            "PreferenceGeneration",
            model=MODEL,
            problems="s3://bucket/problems.jsonl",
            questions={"count": 10},
            shards=3,
            server={"inline": {}},
            storage=STORAGE,
        ),
    )
    assert world.condition() == ("Reconciling", "WaitingForServer")
    world.node.ready("it-server")
    world.settle()
    search = world.node.specs["it-search-a1"]
    assert [config.shard for config in search.configurations] == [0, 1, 2]  # type: ignore[attr-defined]
    start("it-search-a1")(world)
    succeed("it-search-a1")(world)
    merge = world.node.specs["it-merge-a1"]
    assert merge.configurations[0].parts == list(search.outputs)  # type: ignore[attr-defined]
    succeed("it-merge-a1")(world)
    assert world.condition() == ("Ready", "Succeeded")
    world.finish()
    assert world.node.server("it-server").gone  # type: ignore[union-attr]


def test_a_run_hands_its_server_from_model_to_model(tmp_path: Path) -> None:
    """The stages of a run in order, with what the server serves and when it is away."""
    world = World(tmp_path, run_of(rounds=2))
    served, story = "released", [("released", set(world.node.order))]
    while world.step():
        spec = world.node.server_specs.get("run-server")
        now = spec.model.uri.rsplit("/", 1)[1] if spec is not None else "released"
        if now != served:
            served = now
            story.append((now, set()))
        known = set().union(*(names for _, names in story))
        story[-1][1].update(name for name in world.node.order if name not in known)
    assert story == [
        ("released", {"run-sft-a1"}),
        ("m1", {"run-m1-gsm8k-a1", "run-1-pairs-search-a1", "run-1-pairs-merge-a1"}),
        ("released", {"run-1-dpo-a1"}),
        ("m2", {"run-m2-gsm8k-a1", "run-2-pairs-search-a1", "run-2-pairs-merge-a1"}),
        ("released", {"run-2-dpo-a1"}),
        ("m3", {"run-m3-gsm8k-a1"}),
        ("released", {"run-report-m3-a1"}),
    ]
    assert world.condition() == ("Ready", "Succeeded")
    assert [model.name for model in world.root.status.models] == ["M1", "M2", "M3"]


def test_a_kept_server_stays_between_rounds_and_goes_at_the_end(tmp_path: Path) -> None:
    world = World(tmp_path, run_of(rounds=2, gpus=0, idle=None))
    away = 0
    while world.step():
        exists = "run-server" in world.node.servers
        away += exists and "run-server" not in world.node.server_specs and "run-report-m3-a1" not in world.node.specs
    assert world.condition() == ("Ready", "Succeeded")
    assert away <= 2  # released only between the last reader and the report
    assert world.node.server("run-server").gone  # type: ignore[union-attr]


def test_a_stalled_evaluation_blocks_nothing_unless_it_is_required(tmp_path: Path) -> None:
    for required, end_of_run in ((False, ("Ready", "Succeeded")), (True, ("Stalled", "DataError"))):
        manifest = run_of(rounds=1)
        evaluations = [manifest.spec.evaluations[0].model_copy(update={"required": required})]
        spec = manifest.spec.model_copy(update={"evaluations": evaluations})
        world = World(tmp_path / str(required), manifest.model_copy(update={"spec": spec}))
        while "run-m1-gsm8k-a1" not in world.node.specs:
            assert world.step()
        fail("run-m1-gsm8k-a1", ExitClass.DATA)(world)
        world.finish()
        assert world.condition() == end_of_run
        if required:
            assert "ModelEvaluation/run-m1-gsm8k" in world.root.status.conditions[0].message


def test_a_failed_round_names_the_child_that_failed(tmp_path: Path) -> None:
    world = World(tmp_path, run_of(rounds=2))
    while "run-1-dpo-a1" not in world.node.specs:
        assert world.step()
    world.node.fail("run-1-dpo-a1", ExitClass.DATA, "pairs.jsonl, line 3: chosen_ids: Field required")
    world.finish()
    assert world.condition() == ("Stalled", "DataError")
    message = world.root.status.conditions[0].message
    assert "StepDPOJob/run-1-dpo" in message
    assert "line 3: chosen_ids" in message


def test_a_suspended_run_lets_everything_go_and_resumes(tmp_path: Path) -> None:
    world = World(tmp_path, run_of(rounds=1))
    while "run-1-pairs-search-a1" not in world.node.specs:
        assert world.step()
    world.change(suspend=True)
    while world.step():
        pass
    assert world.condition() == ("Suspended", "Suspended")
    assert world.node.live == []
    assert world.node.server("run-server").gone  # type: ignore[union-attr]
    world.change(suspend=False)
    world.finish()
    assert world.condition() == ("Ready", "Succeeded")


def test_an_appended_round_goes_on_from_the_last_model(tmp_path: Path) -> None:
    world = World(tmp_path, run_of(rounds=1))
    world.finish()
    assert world.condition() == ("Ready", "Succeeded")
    before = list(world.node.order)
    world.change(iterations=run_of(rounds=2).spec.iterations)
    world.finish()
    assert world.condition() == ("Ready", "Succeeded")
    assert world.node.order[len(before) :] == [
        "run-2-pairs-search-a1",
        "run-2-pairs-merge-a1",
        "run-2-dpo-a1",
        "run-m3-gsm8k-a1",
        "run-report-m3-a1",
    ]


def test_a_round_alone_brings_its_own_server_and_lets_it_go_for_training(tmp_path: Path) -> None:
    world = World(
        tmp_path,
        resource(
            "SelfRewardIteration",
            model=MODEL,
            problems="s3://bucket/problems.jsonl",
            questions={"count": 10},
            storage=STORAGE,
            trainingResources={"gpus": 1},
            server={"inline": {"resources": {"gpus": 8}}},
        ),
    )
    while "it-dpo-a1" not in world.node.specs:
        assert world.step()
        if "it-dpo-a1" in world.node.specs:
            assert world.node.server("it-server").gone  # type: ignore[union-attr]
    world.finish()
    assert world.condition() == ("Ready", "Succeeded")
    assert world.root.status.output == "s3://bucket/runs/default/it/checkpoint"


def test_a_server_that_cannot_serve_stalls_the_run(tmp_path: Path) -> None:
    from psr_operator.planner.types import ServerState

    world = World(tmp_path, run_of(rounds=1))
    while "run-server" not in world.node.server_specs:
        assert world.step()
    world.node.servers["run-server"] = ServerState("run-server", message="no room on the device", failed=True)
    world.settle()
    assert world.condition() == ("Stalled", "ServerFailed")
    assert "no room on the device" in world.root.status.conditions[0].message


def test_the_longest_name_has_room_for_its_children(tmp_path: Path) -> None:
    manifest = run_of(rounds=1)
    name = "a" * 40
    world = World(
        tmp_path, manifest.model_copy(update={"metadata": manifest.metadata.model_copy(update={"name": name})})
    )
    world.finish()
    assert world.condition() == ("Ready", "Succeeded")


def test_a_rerun_does_not_take_the_old_attempt_for_the_new_one(tmp_path: Path) -> None:
    """The token changes in the moment in which the first attempt ends."""
    world = World(tmp_path, resource("StepDPOJob", **JOB))
    world.node.start("it-a1")
    world.settle()
    world.node.succeed("it-a1")
    world.change(rerun="again")
    assert world.condition() == ("Reconciling", "Pending")
    succeed("it-a2")(world)
    assert world.root.status.output == "s3://bucket/runs/default/it/checkpoint/rerun-again"


def test_a_rerun_counts_failures_anew(tmp_path: Path) -> None:
    world = World(tmp_path, resource("StepDPOJob", **JOB, retries={"backoffLimit": 1, "backoffSeconds": 0}))
    fail("it-a1", ExitClass.FAILURE)(world)
    fail("it-a2", ExitClass.FAILURE)(world)
    assert world.condition() == ("Stalled", "BackoffLimitExceeded")
    world.change(rerun="again")
    fail("it-a3", ExitClass.FAILURE)(world)
    assert world.condition() == ("Reconciling", "Pending")


def test_work_does_not_begin_when_its_server_goes_between_intent_and_workload(tmp_path: Path) -> None:
    """The intent of an attempt is stored, then the server is gone: no Workload asks a server that is not there."""
    spec = {"model": MODEL, "problems": "s3://bucket/p.jsonl", "storage": STORAGE, "server": {"ref": "server"}}
    evaluation = resource("ModelEvaluation", **spec)
    status = evaluation.status.model_copy(update={"attempts": {"evaluate": Attempts(attempt=1, open=True)}})
    intended = evaluation.model_copy(update={"status": status})
    planned = plan(intended, Observed(), datetime(2026, 1, 1, tzinfo=UTC))
    assert planned.workloads == ()
    assert planned.status.reason == "WaitingForServer"
    assert planned.status.attempts["evaluate"].open, "the attempt is made once the server is back"
