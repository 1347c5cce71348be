"""Steps side by side: each begins after those that it needs, and one that fails ends the others."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from harness import steps
from harness.steps import Runner, Step


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "ROOT", tmp_path)


def plan(monkeypatch: pytest.MonkeyPatch, *rows: Step) -> Runner:
    monkeypatch.setitem(steps.PLANS, "it", rows)
    return Runner("it")


def shell(name: str, text: str, *after: str, shown: bool = False) -> Step:
    return Step(name, ("sh", "-c", text), after=after, shown=shown)


def test_steps_run_side_by_side_and_in_order(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    # Each of the first two waits for what the other one makes.
    first = shell("first", "touch a; while [ ! -e b ]; do sleep 0.05; done")
    second = shell("second", "touch b; while [ ! -e a ]; do sleep 0.05; done")
    third = shell("third", "rm a b && echo removed", "first", "second", shown=True)
    assert plan(monkeypatch, third, first, second).run() == 0
    assert "removed" in capfd.readouterr().out
    times = json.loads((tmp_path / "out/times/it.json").read_text())
    assert set(times) == {"first", "second", "third", "all"}


def test_a_step_that_fails_ends_the_others_and_its_log_is_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    started = time.monotonic()
    failing = shell("failing", "echo why; exit 3")
    code = plan(monkeypatch, shell("waiting", "sleep 300"), failing, shell("never", "touch c", "failing")).run()
    assert code == 3
    assert time.monotonic() - started < 200
    assert "why" in capfd.readouterr().out
    assert not (tmp_path / "c").exists()
    assert (tmp_path / "out/steps/it-failing.log").read_text() == "why\n"


def test_every_step_of_every_plan_comes_after_one_of_its_plan() -> None:
    for rows in steps.PLANS.values():
        names = [step.name for step in rows]
        assert len(set(names)) == len(names)
        assert {name for step in rows for name in step.after} <= set(names)
