"""A run's models are worked out once a plan, and every child is looked up once for it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest
from world import World, run_of

from psr_operator.api import Resource, SelfRewardRun
from psr_operator.planner import plan
from psr_operator.planner.kinds import run as planner_of_runs
from psr_operator.planner.run_models import RunModels, run_models
from psr_operator.planner.types import Observed


@dataclass(frozen=True)
class Counted(Observed):
    """What is observed, with a count of the children that were asked for."""

    asked: Counter[tuple[str, str]] = field(default_factory=Counter)

    def child(self, kind: str, name: str) -> Resource | None:
        self.asked[kind, name] += 1
        return super().child(kind, name)


@pytest.fixture
def finished(tmp_path: Path) -> World:
    """A run of three rounds that has come to its end, with two of its models pruned."""
    world = World(tmp_path, run_of(rounds=3, retention="Best"))
    world.node.results = {f"run-m{number}-gsm8k-a1": {"accuracy": number / 10} for number in (1, 2, 3, 4)}
    world.finish()
    return world


def test_models_are_worked_out_once_a_plan(finished: World, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counted(run: SelfRewardRun, observed: Observed) -> RunModels:
        calls.append(run.metadata.name)
        return run_models(run, observed)

    monkeypatch.setattr(planner_of_runs, "run_models", counted)
    observed = Counted(children=finished.executor.store.children(finished.root))
    plan(finished.root, observed, datetime(2026, 1, 1, tzinfo=UTC))
    assert calls == ["run"]
    assert set(observed.asked.values()) == {1}, observed.asked
    assert len(observed.asked) == 1 + 3 + 4 + 1, "the fine-tuning, three rounds, four evaluations, the server"


def test_they_have_all_that_others_ask(finished: World) -> None:
    run = finished.root
    assert isinstance(run, SelfRewardRun)
    models = run_models(run, Observed(children=finished.executor.store.children(run)))
    assert [model.name for model in models.models] == ["M1", "M2", "M3", "M4"]
    assert [model.weights for model in models.models] == ["Pruned", "Pruned", "Pruned", "Kept"]
    assert [model.accuracy for model in models.models] == [{"gsm8k": number / 10} for number in (1, 2, 3, 4)]
    assert [model.pairs is not None for model in models.models] == [True, True, True, False]
    assert models.are_complete
    assert not models.is_stuck
    assert [models.must_exist(number) for number in (1, 2, 3, 4)] == [True, True, True, True]
