"""A grader from outside: an answer is right when its last character is the gold answer."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from psr_runtime.evaluation.graders import GRADERS, Grade
from tests.evaluation.test_evaluate_stage import Scripted


class LastCharacter:
    def grade(self, gold: str, response: str) -> Grade:
        answer = response.rstrip("}")[-1:]
        return Grade(answer, answer == gold)


@contextmanager
def last_character(seconds: float) -> Iterator[LastCharacter]:
    assert seconds == 7
    yield LastCharacter()


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    GRADERS.register("LastCharacter")(last_character)
    yield
    GRADERS.unregister("LastCharacter")


def test_a_toy_grader_grades_an_evaluation(evaluate: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    code, printed = evaluate(Scripted(), grader="LastCharacter", gradingSeconds=7)
    assert code == 0
    predictions = [json.loads(line) for line in (tmp_path / "out/predictions.jsonl").read_text().splitlines()]
    assert [prediction["answer"] for prediction in predictions] == ["3", "5", "5", "m"]
    assert [prediction["correct"] for prediction in predictions] == [True, False, False, False]
    assert (json.loads(printed)["accuracy"], json.loads(printed)["empty_gold"]) == (0.25, 0)


def test_a_grader_that_nobody_brings_is_refused(evaluate: Callable[..., tuple[int, str]]) -> None:
    engine = Scripted()
    code, message = evaluate(engine, grader="Nobody")
    assert (code, engine.asked) == (64, [])
    assert "evaluation.grader: nobody brings 'Nobody'; there are LastCharacter, MathVerify." in message
