"""A benchmark from outside: its file has other fields, and it asks in its own words."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from psr_runtime.data.records import GradedProblem
from psr_runtime.evaluation.benchmarks import BENCHMARKS
from psr_runtime.prompts.templates import Templates
from psr_runtime.storage import Storage
from tests.evaluation.test_evaluate_stage import Scripted


class Exam:
    """Lines of two terms and their sum."""

    def problems(self, storage: Storage, uri: str) -> list[GradedProblem]:
        lines = [json.loads(line) for line in storage.read(uri).splitlines()]
        return [
            GradedProblem(id=f"task{at}", problem=" and ".join(line["terms"]), answer=line["sum"])
            for at, line in enumerate(lines)
        ]

    def messages(self, problem: GradedProblem, templates: Templates) -> list[dict[str, str]]:
        return [{"role": "user", "content": problem.problem.replace("and", "+")}]


@pytest.fixture(autouse=True)
def exam() -> Iterator[None]:
    BENCHMARKS.register("Exam")(Exam)
    yield
    BENCHMARKS.unregister("Exam")


def test_a_toy_benchmark_is_read_asked_and_graded(evaluate: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    engine = Scripted()
    tasks = [{"terms": ["1", "2"], "sum": "3"}, {"terms": ["2", "2"], "sum": "4"}]
    code, _ = evaluate(engine, tasks, benchmark="Exam")
    assert code == 0
    assert sorted(engine.asked) == ["1 + 2|", "2 + 2|"]
    predictions = [json.loads(line) for line in (tmp_path / "out/predictions.jsonl").read_text().splitlines()]
    assert [(item["id"], item["problem"], item["correct"]) for item in predictions] == [
        ("task0", "1 and 2", True),
        ("task1", "2 and 2", False),
    ]


def test_a_benchmark_that_nobody_brings_is_refused(evaluate: Callable[..., tuple[int, str]]) -> None:
    code, message = evaluate(Scripted(), benchmark="Nobody")
    assert code == 64
    assert "evaluation.benchmark: nobody brings 'Nobody'; there are Custom, Exam." in message
