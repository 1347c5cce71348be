"""A search strategy from outside: it takes the first step of every problem and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from psr_runtime.data.reading import read_records
from psr_runtime.data.records import Level, Pair, SearchProblem, Tree
from psr_runtime.search.strategies import STRATEGIES, Log, SearchSetup
from psr_runtime.search.strategies.step_search import StepSearch
from psr_runtime.storage import Storage, file_uri
from tests.search.standin import StandIn

searched: list[str] = []


class FirstStep:
    """One level a problem, by the step search's own sampling and judging."""

    def __init__(self, setup: SearchSetup) -> None:
        one = setup.config.model_copy(update={"max_iterations": 1})
        self.inner = StepSearch(replace(setup, config=one))

    async def search(self, problem: SearchProblem, prompt_ids: list[int], finished: Sequence[Level], log: Log) -> Tree:
        searched.append(problem.id)
        return await self.inner.search(problem, prompt_ids, finished, log)


@pytest.fixture(autouse=True)
def first_step() -> Iterator[None]:
    searched.clear()
    STRATEGIES.register("FirstStep")(FirstStep)
    yield
    STRATEGIES.unregister("FirstStep")


def test_a_toy_strategy_searches_every_problem(search: Callable[..., StandIn], tmp_path: Path) -> None:
    engine = search(search={"strategy": "FirstStep", "width": 4, "temperature": 1.0, "maxStepTokens": 8})
    trees = read_records(Storage(), file_uri(tmp_path / "out/trees.jsonl"), Tree)
    assert sorted(tree.problem_id for tree in trees) == sorted(searched) == [f"q{number}" for number in range(8)]
    assert len(engine.asked("candidates")) == sum(len(tree.levels) for tree in trees) == 8
    pairs = read_records(Storage(), file_uri(tmp_path / "out/pairs.jsonl"), Pair)
    assert {(pair.level, len(pair.path_ids)) for pair in pairs} == {(1, 0)}


def test_a_strategy_that_nobody_brings_is_refused(
    search: Callable[..., StandIn], capsys: pytest.CaptureFixture[str]
) -> None:
    search(ends=64, search={"strategy": "Nobody"})
    assert "search.strategy: nobody brings 'Nobody'; there are FirstStep, StepSearch." in capsys.readouterr().err
