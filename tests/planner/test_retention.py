"""Which weights of a run go, when, and what becomes of the run when they cannot be removed."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError
from test_lifecycles import JOB, fail
from world import STORAGE, World, resource, run_of

from psr_operator.planner.types import ExitClass
from psr_runtime.config import PruneStage


def weights(world: World) -> dict[str, str]:
    """Of each model, whether its weights are there."""
    return {model.name: model.weights for model in world.root.status.models}


def kept(world: World) -> list[str]:
    return [name for name, state in weights(world).items() if state == "Kept"]


def until(world: World, name: str, but: str = "") -> None:
    """Everything but one Workload goes well until another is made."""
    while name not in world.node.specs:
        assert world.step(but), f"{name} is never made"


def change(world: World, retention: str) -> None:
    storage = world.objects[0].spec.storage.model_copy(update={"retention": retention})
    world.change(storage=storage)


def removals(world: World) -> list[str]:
    return [name for name in world.node.order if "prune" in name]


def test_all_weights_stay_unless_a_run_says_otherwise(tmp_path: Path) -> None:
    world = World(tmp_path, run_of(rounds=2))
    world.finish()
    assert removals(world) == []
    assert kept(world) == ["M1", "M2", "M3"]


def test_last_removes_a_model_once_the_next_one_is_made(tmp_path: Path) -> None:
    world = World(tmp_path, run_of(rounds=2, retention="Last"))
    until(world, "run-prune-m1-a1")
    assert "run-1-dpo-a1" in world.node.order
    assert weights(world) == {"M1": "Pruning", "M2": "Kept"}
    (config,) = world.node.specs["run-prune-m1-a1"].configurations
    assert isinstance(config, PruneStage)
    assert [(model.uri, model.digest) for model in config.models] == [
        ("s3://bucket/runs/default/run/m1", "sha256:s3://bucket/runs/default/run/m1")
    ]
    assert config.owner.uri == "s3://bucket/runs/default/run"
    assert config.output == "s3://bucket/runs/default/run/retention/m1"
    assert world.condition()[0] == "Reconciling"
    world.finish()
    assert weights(world) == {"M1": "Pruned", "M2": "Pruned", "M3": "Kept"}
    assert world.condition() == ("Ready", "Succeeded")
    assert world.root.status.output == "s3://bucket/runs/default/run/report/m3"


def test_rounds_go_on_beside_a_removal(tmp_path: Path) -> None:
    world = World(tmp_path, run_of(rounds=2, retention="Last"))
    until(world, "run-prune-m1-a1")
    until(world, "run-m3-gsm8k-a1", but="run-prune-m1-a1")
    assert removals(world) == ["run-prune-m1-a1"], "one at a time"
    assert "run-report-m3-a1" not in world.node.specs


def test_the_users_model_is_never_touched(tmp_path: Path) -> None:
    world = World(tmp_path, run_of(rounds=2, sft=False, retention="Last"))
    world.finish()
    assert removals(world) == ["run-prune-m2-a1"]
    assert weights(world) == {"M1": "Kept", "M2": "Pruned", "M3": "Kept"}


def test_a_model_stays_for_its_unfinished_evaluation(tmp_path: Path) -> None:
    """The second model is there; the first one's evaluation takes its time."""
    world = World(tmp_path, run_of(rounds=2, gpus=0, retention="Last"))
    until(world, "run-m1-gsm8k-a1")
    world.node.start("run-m1-gsm8k-a1")
    while world.step(but="run-m1-gsm8k-a1"):
        pass
    assert [model.name for model in world.root.status.models] == ["M1", "M2"]
    assert removals(world) == []
    world.node.succeed("run-m1-gsm8k-a1")
    world.settle()
    assert removals(world) == [], "the server may still load it"
    world.finish()
    assert removals(world) == ["run-prune-m1-a1", "run-prune-m2-a1"]


def test_a_model_stays_while_a_replica_may_still_load_it(tmp_path: Path) -> None:
    world = World(tmp_path, run_of(rounds=1, gpus=0, idle="Keep", retention="Last"))
    until(world, "run-1-dpo-a1")
    world.node.start("run-1-dpo-a1")
    world.node.succeed("run-1-dpo-a1")
    world.settle()
    server = world.get("PolicyServer", "run-server")
    assert server.spec.model.uri.endswith("/m2")
    assert server.status.model is None, "it loads"
    assert removals(world) == []
    world.node.ready("run-server")
    world.settle()
    assert removals(world) == ["run-prune-m1-a1"]


def test_a_stalled_evaluation_keeps_its_models_weights_and_the_run_says_so(tmp_path: Path) -> None:
    world = World(tmp_path, run_of(rounds=1, retention="Last"))
    until(world, "run-m1-gsm8k-a1")
    world.node.fail("run-m1-gsm8k-a1", ExitClass.DATA, "line 3: answer: Field required")
    world.finish()
    assert world.condition() == ("Ready", "Succeeded")
    assert removals(world) == []
    message = world.root.status.conditions[0].message
    assert "weights of M1 stay, as ModelEvaluation/run-m1-gsm8k is stalled and may be tried again" in message


def test_a_stalled_round_keeps_the_weights_that_it_trains(tmp_path: Path) -> None:
    world = World(tmp_path, run_of(rounds=2, retention="Last"))
    until(world, "run-2-dpo-a1")
    world.node.fail("run-2-dpo-a1", ExitClass.DATA)
    world.finish()
    assert world.condition() == ("Stalled", "DataError")
    assert weights(world) == {"M1": "Pruned", "M2": "Kept"}


def test_nothing_is_removed_while_the_run_is_suspended(tmp_path: Path) -> None:
    world = World(tmp_path, run_of(rounds=1, retention="Last"))
    until(world, "run-prune-m1-a1")
    world.change(suspend=True)
    while world.step():
        pass
    assert world.condition() == ("Suspended", "Suspended")
    assert world.node.live == []
    world.pass_time(1e6)
    assert removals(world) == ["run-prune-m1-a1"]
    assert weights(world)["M1"] == "Pruning"
    world.change(suspend=False)
    world.finish()
    assert removals(world) == ["run-prune-m1-a1", "run-prune-m1-a2"]
    assert weights(world)["M1"] == "Pruned"


def test_an_appended_round_needs_the_last_model_only(tmp_path: Path) -> None:
    world = World(tmp_path, run_of(rounds=1, retention="Last"))
    world.finish()
    assert kept(world) == ["M2"]
    world.change(iterations=run_of(rounds=2).spec.iterations)
    world.finish()
    assert world.condition() == ("Ready", "Succeeded")
    assert kept(world) == ["M3"]
    assert removals(world) == ["run-prune-m1-a1", "run-prune-m2-a1"]


def test_a_finished_run_whose_retention_becomes_last_removes_the_others(tmp_path: Path) -> None:
    world = World(tmp_path, run_of(rounds=2))
    world.finish()
    children = {item.ref: item.metadata.generation for item in world.executor.store if item is not world.root}
    change(world, "Last")
    assert world.condition() == ("Reconciling", "Pending")
    world.finish()
    assert world.condition() == ("Ready", "Succeeded")
    assert kept(world) == ["M3"]
    after = {item.ref: item.metadata.generation for item in world.executor.store if item is not world.root}
    assert after == children, "what a run says of weights changes none of its children"


def test_back_to_all_keeps_what_is_there_and_finishes_what_was_begun(tmp_path: Path) -> None:
    world = World(tmp_path, run_of(rounds=2, retention="Last"))
    until(world, "run-prune-m1-a1")
    change(world, "All")
    world.finish()
    assert weights(world) == {"M1": "Pruned", "M2": "Kept", "M3": "Kept"}


@pytest.mark.parametrize(
    ("accuracy", "stay"),
    [
        ([0.4, 0.9, 0.5, 0.6], ["M2", "M4"]),
        ([0.4, 0.5, 0.6, 0.9], ["M4"]),
        ([0.9, 0.9, 0.5, 0.6], ["M2", "M4"]),
        ([0.9, 0.5, 0.5, 0.6], ["M1", "M4"]),
        ([0.9, 0.5, 0.5, 0.9], ["M4"]),
    ],
    ids=["in the middle", "the last", "of two the newer", "the first", "as good as the first and newer"],
)
def test_best_keeps_the_most_accurate_and_the_last(tmp_path: Path, accuracy: list[float], stay: list[str]) -> None:
    world = World(tmp_path, run_of(rounds=3, retention="Best"))
    world.node.results = {f"run-m{index}-gsm8k-a1": {"accuracy": value} for index, value in enumerate(accuracy, 1)}
    world.finish()
    assert kept(world) == stay
    assert world.condition() == ("Ready", "Succeeded")


def test_the_first_required_evaluation_decides_which_is_best(tmp_path: Path) -> None:
    manifest = run_of(rounds=2, retention="Best")
    first = manifest.spec.evaluations[0]
    both = [first, first.model_copy(update={"name": "math", "required": True})]
    world = World(
        tmp_path, manifest.model_copy(update={"spec": manifest.spec.model_copy(update={"evaluations": both})})
    )
    world.node.results = {
        "run-m1-gsm8k-a1": {"accuracy": 0.9},
        "run-m1-math-a1": {"accuracy": 0.1},
        "run-m2-math-a1": {"accuracy": 0.3},
        "run-m3-math-a1": {"accuracy": 0.2},
    }
    world.finish()
    assert kept(world) == ["M2", "M3"]


def test_best_without_evaluations_is_refused_by_name() -> None:
    manifest = run_of(rounds=1).to_json()
    manifest["spec"] |= {"evaluations": [], "storage": {**STORAGE, "retention": "Best"}}
    with pytest.raises(ValidationError, match=r"storage\.retention: Best needs an evaluation"):
        type(run_of()).model_validate(manifest)


# --- removals that fail ------------------------------------------------------------------------------------


def test_a_removal_that_fails_is_repeated(tmp_path: Path) -> None:
    world = World(tmp_path, run_of(rounds=1, retention="Last", retries={"backoffLimit": 1, "backoffSeconds": 0}))
    until(world, "run-prune-m1-a1")
    world.node.fail("run-prune-m1-a1", ExitClass.FAILURE)
    world.finish()
    assert removals(world) == ["run-prune-m1-a1", "run-prune-m1-a2"]
    assert kept(world) == ["M2"]


def test_one_that_fails_for_good_is_an_event_and_stops_nothing(tmp_path: Path) -> None:
    world = World(tmp_path, run_of(rounds=2, retention="Last"))
    until(world, "run-prune-m1-a1")
    world.node.fail("run-prune-m1-a1", ExitClass.DATA, "holds sha256:b, and sha256:a is to be pruned")
    world.settle()
    events = [item for item in world.transitions if item.reason == "PruneFailed"]
    assert [(item.warning, item.eventful) for item in events] == [(True, True)]
    assert "weights of M1 were not removed: DataError: holds sha256:b" in events[0].message
    world.finish()
    assert world.condition() == ("Ready", "Succeeded")
    assert weights(world) == {"M1": "Pruning", "M2": "Pruned", "M3": "Kept"}
    message = world.root.status.conditions[0].message
    assert message.startswith("report at s3://bucket/runs/default/run/report/m3; ")
    assert "weights of M1 were not removed: DataError: holds sha256:b" in message
    assert world.root.status.failure is None


def test_a_changed_spec_gives_it_another_try(tmp_path: Path) -> None:
    world = World(tmp_path, run_of(rounds=1, retention="Last"))
    until(world, "run-prune-m1-a1")
    world.node.fail("run-prune-m1-a1", ExitClass.DATA)
    world.finish()
    world.change(search_shards=2)
    world.finish()
    assert removals(world) == ["run-prune-m1-a1", "run-prune-m1-a2"]
    assert (kept(world), world.root.status.unpruned) == (["M2"], {})
    assert world.root.status.conditions[0].message == "report at s3://bucket/runs/default/run/report/m2"


def test_a_report_that_fails_is_not_mixed_up_with_a_removal(tmp_path: Path) -> None:
    world = World(tmp_path, run_of(rounds=1, retention="Last"))
    until(world, "run-prune-m1-a1")
    world.node.fail("run-prune-m1-a1", ExitClass.DATA, "foreign")
    until(world, "run-report-m2-a1")
    world.node.fail("run-report-m2-a1", ExitClass.MISSING, "no such pair set")
    world.finish()
    assert world.condition() == ("Stalled", "InputMissing")
    assert "no such pair set" in world.root.status.conditions[0].message
    assert set(world.root.status.unpruned) == {"M1"}


# --- what is done stays done -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "child",
    [
        ("SFTJob", "run-sft"),
        ("SelfRewardIteration", "run-1"),
        ("ModelEvaluation", "run-m1-gsm8k"),
    ],
    ids=lambda child: child[1],
)
@pytest.mark.parametrize("finished", [True, False], ids=["finished", "under way"])
def test_a_deleted_child_of_a_pruned_model_is_not_made_again(
    tmp_path: Path, child: tuple[str, str], finished: bool
) -> None:
    """It would read weights that are gone. All that it said is in the run's status."""
    world = World(tmp_path, run_of(rounds=2, retention="Last"))
    if finished:
        world.finish()
    else:
        until(world, "run-2-pairs-search-a1")
    before = [model.model_copy(update={"weights": "Kept"}) for model in world.root.status.models]
    world.delete(*child)
    world.settle()
    now = [model.model_copy(update={"weights": "Kept"}) for model in world.root.status.models]
    assert now[0] == before[0]
    assert len(now) == len(before)
    world.finish()
    assert world.executor.store.get(*child) is None
    assert world.condition() == ("Ready", "Succeeded")
    report = world.node.specs["run-report-m3-a1"].configurations[0]
    reported = report.models[0]  # type: ignore[attr-defined]
    assert reported.pairs == "s3://bucket/runs/default/run/iteration-1/pairs"
    assert [item.uri for item in reported.evaluations] == ["s3://bucket/runs/default/run/evaluations/m1/gsm8k"]
    assert len(world.node.order) == len(set(world.node.order))


def test_an_interrupted_run_of_this_machine_goes_on(tmp_path: Path) -> None:
    """Its own status is lost: removals are asked again, and nothing is served or searched again."""
    first = World(tmp_path, run_of(rounds=2, retention="Last"))
    until(first, "run-2-dpo-a1")
    again = World(tmp_path, run_of(rounds=2, retention="Last"), artefacts=True)
    again.finish()
    assert again.condition() == ("Ready", "Succeeded")
    assert kept(again) == ["M3"]
    assert not [name for name in again.node.order if "search" in name or name == "run-m1-gsm8k-a1"]


@pytest.mark.parametrize("idle", ["Release", "Keep"])
def test_a_run_whose_statuses_are_all_lost_is_rebuilt_without_the_weights(tmp_path: Path, idle: str) -> None:
    """A backup without statuses is restored, say. No server can serve M1 again, and every stage that asked it is done:
    it finds its result and asks nobody."""
    first = World(tmp_path / "first", run_of(rounds=2, idle=idle, retention="Last"))
    first.finish()
    again = World(tmp_path / "again", run_of(rounds=2, idle=idle, retention="Last"))
    again.node.pruned = first.node.pruned
    again.finish()
    assert again.condition() == ("Ready", "Succeeded")
    assert kept(again) == ["M3"]
    (asked,) = again.node.specs["run-m1-gsm8k-a1"].configurations
    assert asked.server.urls == ["http://127.0.0.1:1"]  # type: ignore[attr-defined]
    (asked,) = again.node.specs["run-m3-gsm8k-a1"].configurations
    assert asked.server.urls == ["http://server:8000"]  # type: ignore[attr-defined]


def test_only_what_the_run_itself_has_pruned_is_taken_for_done(tmp_path: Path) -> None:
    """M1 was pruned by another run: this one never asked it, and says what is missing."""
    world = World(tmp_path, run_of(rounds=1, sft=False))
    world.node.pruned = {world.root.spec.model.uri}
    world.finish()
    assert world.condition() == ("Stalled", "WeightsPruned")
    assert "weights were pruned by retention" in world.root.status.conditions[0].message
    assert world.node.order == []


def test_a_leaf_whose_model_was_pruned_is_stalled(tmp_path: Path) -> None:
    world = World(tmp_path, resource("StepDPOJob", **JOB))
    fail("it-a1", ExitClass.MISSING)(world)
    assert world.condition() == ("Stalled", "InputMissing")
