"""Every order in which a small run can go, one object planned at a time: GPUs in one hand, one attempt, and an end."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import replace
from typing import Any

import pytest
from orders import Move, Orders, State
from world import run_of

from psr_operator.planner import gpus, retention

RETRIES = {"backoffLimit": 1, "maxDisruptions": 3, "backoffSeconds": 0}


class Explored:
    """All states of a run, the good moves between them, and how each was reached.

    Where a status may be lost, a parent cannot know what its children still do: there it is only asked that every
    object has one attempt at a time and that it ends.
    """

    def __init__(self, orders: Orders) -> None:
        self.orders = orders
        self.lossy = orders.first.losses > 0
        self.reached: dict[State, tuple[State, str] | None] = {orders.first: None}
        self.backwards: dict[State, list[State]] = {}
        self.still: list[State] = []
        queue = deque([orders.first])
        while queue:
            state = queue.popleft()
            good = 0
            for move in orders.moves(state):
                if move.good:
                    good += move.name != "resume"
                    self.backwards.setdefault(move.state, []).append(state)
                self._check_move(state, move)
                if move.state not in self.reached:
                    self.reached[move.state] = (state, move.name)
                    self._check(move.state)
                    queue.append(move.state)
            if not good:
                self.still.append(state)

    def story(self, state: State, *more: str) -> str:
        """The shortest way to a state."""
        names = list(more)
        before = self.reached[state]
        while before is not None:
            names.insert(0, before[1])
            before = self.reached[before[0]]
        return "\n  ".join(["", *names])

    def _check(self, state: State) -> None:
        orders = self.orders
        if not self.lossy and (serving := orders.serving(state)) and (training := orders.training(state)):
            raise AssertionError(f"{serving} and {training} want GPUs together:{self.story(state)}")
        pruned = orders.pruned(state)
        if not self.lossy and (late := [name for name, model in orders.reading(state) if model in pruned]):
            raise AssertionError(f"{late} may read weights that are removed:{self.story(state)}")
        owners = Counter(work.owner for work in state.works if not work.gone)
        if any(count > 1 for count in owners.values()):
            raise AssertionError(f"two live attempts: {owners}{self.story(state)}")

    def _check_move(self, state: State, move: Move) -> None:
        """A server's model moves only when nobody is left who reads from the old one."""
        before, after = self.orders.server(state), self.orders.server(move.state)
        if self.lossy or before is None or after is None or before.spec.model == after.spec.model:
            return
        old = before.spec.model
        for key, version in state.objects:
            item = self.orders.versions[version]
            if key[0] not in ("PreferenceGeneration", "ModelEvaluation") or item.spec.model != old:
                continue
            ended = item.status.holds("Ready") or item.status.holds("Stalled")
            works = [work for work in state.works if work.owner == key and work.phase in ("Pending", "Running")]
            reading = [work for work in works if self.orders.workloads[work.made].stage in ("search", "evaluate")]
            if not ended or reading:
                raise AssertionError(f"{item.ref} still reads {old.uri}:{self.story(state, move.name)}")

    def check_ends(self) -> None:
        """Where nothing can happen the run has ended or is suspended, and everything leads to such an end."""
        orders = self.orders
        for state in self.still:
            root = orders.get(state, orders.root)
            ended = root.status.holds("Ready") or root.status.holds("Stalled")
            assert ended or root.status.holds("Suspended"), f"nothing moves any more:{self.story(state)}"
            assert not orders.live(state), f"{orders.live(state)[0].name} is left:{self.story(state)}"
        reaching = set(self.still)
        queue = deque(self.still)
        while queue:
            for state in self.backwards.get(queue.popleft(), ()):
                if state not in reaching:
                    reaching.add(state)
                    queue.append(state)
        lost = next((state for state in self.reached if state not in reaching), None)
        assert lost is None, f"it never ends from here on:{self.story(lost) if lost else ''}"


def explore(
    rounds: int,
    *,
    gpus: int,
    sft: bool,
    idle: str,
    retention: str = "All",
    evaluated: bool = True,
    **against: int,
) -> Explored:
    """All orders of a small run.

    Raises:
        AssertionError: with the shortest way to a state in which a rule does not hold.
    """
    run = run_of(rounds, gpus=gpus, sft=sft, idle=idle, retention=retention, retries=RETRIES)
    if not evaluated:
        run = run.model_copy(update={"spec": run.spec.model_copy(update={"evaluations": []})})
    return Explored(Orders(run, **against))


@pytest.mark.parametrize("idle", ["Release", "Keep"])
@pytest.mark.parametrize("sft", [True, False], ids=["sft", "no-sft"])
@pytest.mark.parametrize("gpus", [0, 1])
@pytest.mark.parametrize("rounds", [1, 2])
def test_runs_in_which_plans_are_late_and_operators_die(rounds: int, gpus: int, sft: bool, idle: str) -> None:
    explored = explore(rounds, gpus=gpus, sft=sft, idle=idle, delays=1, crashes=1)
    explored.check_ends()
    assert len(explored.reached) > 3000 * rounds


@pytest.mark.parametrize("idle", ["Release", "Keep"])
@pytest.mark.parametrize("rounds", [1, 2])
def test_runs_in_which_something_fails(rounds: int, idle: str) -> None:
    explored = explore(rounds, gpus=1, sft=rounds == 1, idle=idle, failures=1)
    explored.check_ends()
    assert len(explored.reached) > 4000 * rounds


def test_runs_in_which_something_fails_plans_are_late_and_operators_die() -> None:
    explored = explore(1, gpus=1, sft=False, idle="Release", failures=1, delays=1, crashes=1)
    explored.check_ends()
    assert len(explored.reached) > 30_000


def test_runs_that_are_suspended_and_resumed() -> None:
    explored = explore(1, gpus=1, sft=False, idle="Release", toggles=2)
    explored.check_ends()
    assert len(explored.reached) > 45_000


@pytest.mark.parametrize("retention", ["All", "Last"])
@pytest.mark.parametrize("gpus", [0, 1])
def test_runs_that_lose_a_status(gpus: int, retention: str) -> None:
    """A model whose weights are gone is asked for again, cannot be served, and need not be."""
    explored = explore(1, gpus=gpus, sft=True, idle="Release", retention=retention, losses=1)
    explored.check_ends()
    assert len(explored.reached) > 1000
    ends = [explored.orders.get(state, explored.orders.root) for state in explored.still]
    assert all(run.status.holds("Ready") for run in ends)


@pytest.mark.parametrize(("retention", "least"), [("Last", 8000), ("Best", 2000)], ids=["Last", "Best"])
@pytest.mark.parametrize(("gpus", "idle"), [(0, "Keep"), (1, "Release")])
def test_runs_whose_weights_go(gpus: int, idle: str, retention: str, least: int) -> None:
    """Whoever reads a model has ended before its weights go, and comes never again."""
    explored = explore(2, gpus=gpus, sft=True, idle=idle, retention=retention, crashes=1)
    explored.check_ends()
    assert len(explored.reached) > least


@pytest.mark.parametrize(("gpus", "idle"), [(0, "Keep"), (1, "Release")])
def test_runs_whose_weights_go_late(gpus: int, idle: str) -> None:
    explored = explore(1, gpus=gpus, sft=True, idle=idle, retention="Last", delays=1, crashes=1)
    explored.check_ends()
    assert len(explored.reached) > 5000


def test_runs_whose_weights_go_while_something_fails() -> None:
    explored = explore(1, gpus=1, sft=True, idle="Release", retention="Last", failures=1)
    explored.check_ends()
    assert len(explored.reached) > 8000
    models = [explored.orders.get(state, explored.orders.root).status.unpruned for state in explored.reached]
    assert any(models), "a removal fails for good somewhere"


@pytest.mark.parametrize(("gpus", "idle"), [(0, "Keep"), (1, "Release")])
def test_runs_whose_weights_go_while_they_are_suspended(gpus: int, idle: str) -> None:
    explored = explore(1, gpus=gpus, sft=True, idle=idle, retention="Last", evaluated=False, toggles=2)
    explored.check_ends()
    assert len(explored.reached) > 2000


def test_runs_whose_retention_is_switched_on_and_off() -> None:
    explored = explore(1, gpus=0, sft=True, idle="Release", switches=2)
    explored.check_ends()
    assert len(explored.reached) > 2000


def test_the_search_sees_a_broken_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training that does not wait for the server to be gone."""
    monkeypatch.setattr(gpus, "until_released", lambda *_: None)
    with pytest.raises(AssertionError, match="want GPUs together"):
        explore(1, gpus=1, sft=False, idle="Release")


@pytest.mark.parametrize("rule", ["until_unloaded", "_is_unread"])
def test_the_search_sees_a_reader_without_weights(monkeypatch: pytest.MonkeyPatch, rule: str) -> None:
    """Removals that do not wait for the server to unload them, or take a stalled evaluation for one that is done."""
    monkeypatch.setattr(retention, rule, lambda *_: rule == "_is_unread" or None)
    with pytest.raises(AssertionError, match="may read weights that are removed"):
        explore(1, gpus=0, sft=True, idle="Keep", retention="Last", failures=1)


def test_the_search_sees_a_deadlock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is never released."""
    kept = gpus.intent

    def never(*arguments: Any, **named: Any) -> gpus.Intent | None:
        wanted = kept(*arguments, **named)
        return replace(wanted, active=True) if wanted is not None else None

    monkeypatch.setattr(gpus, "intent", never)
    with pytest.raises(AssertionError, match="nothing moves any more"):
        explore(1, gpus=1, sft=False, idle="Release").check_ends()
