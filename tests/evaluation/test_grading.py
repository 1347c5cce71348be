"""Grading: what is equal, and that nothing a model writes stops a grader."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from psr_runtime.data.reading import parse_records
from psr_runtime.data.records import GradedProblem
from psr_runtime.evaluation.graders import Grade, grade_all
from psr_runtime.evaluation.graders.math_verify import MathVerify
from psr_runtime.prompts.grammar import boxed
from tests.prompts.test_answers import BOXES

GSM8K = Path(__file__).parents[3] / "shared/data/qwen25_math_eval/gsm8k/test.jsonl"


@pytest.fixture(scope="session")
def grader() -> Iterator[MathVerify]:
    with MathVerify(seconds=20) as grader:
        yield grader


EQUAL = [
    ("27.0", "27"),
    ("27", "27.0"),
    ("1/2", "0.5"),
    (r"\frac{1}{2}", "1/2"),
    (r"$\frac12$", r"\dfrac{1}{2}"),
    ("1000", "1,000"),
    ("1000", r"\$1{,}000"),
    ("5", r"5 \text{ cm}"),
    ("5", "x=5"),
    (r"\text{Evelyn}", r"\text{Evelyn}"),
    ("(3,5)", r"\left(3, 5\right)"),
    ("$2$,$3$", "3, 2"),
    ("x^2+1", "1+x^2"),
    ("3:00", "3:00"),
]
UNEQUAL = [("27", "28"), ("-3", "3"), ("1/2", "2"), ("(3,5)", "(5,3)"), ("x^2", "x^3"), ("3:00", "5:00"), ("7", "")]


@pytest.mark.parametrize(
    ("gold", "answer", "correct"), [(*pair, True) for pair in EQUAL] + [(*pair, False) for pair in UNEQUAL]
)
def test_an_answer_in_a_box_is_compared_by_its_value(grader: MathVerify, gold: str, answer: str, correct: bool) -> None:
    grade = grader.grade(gold, rf"Step 1: think.\nStep 2: so \boxed{{{answer}}}.")

    assert grade == Grade(answer or None, correct)


@pytest.mark.parametrize(
    ("response", "answer", "correct"),
    [
        (r"\boxed{3} no, \boxed{18}", "18", True),
        (r"\boxed{18} and then \boxed{3", "18", True),  # the last balanced one
        ("The final answer is 18.", "18", True),
        ("The final answer is $9 + 9$.", "9 + 9", True),
        ("I do not know.", None, False),
        ("", None, False),
    ],
)
def test_the_answer_is_the_last_balanced_box_or_what_math_verify_finds(
    grader: MathVerify, response: str, answer: str | None, correct: bool
) -> None:
    assert grader.grade("18", response) == Grade(answer, correct)


def test_the_grader_reads_the_same_answer_as_the_search(grader: MathVerify) -> None:
    for text in BOXES:
        content = boxed(text)
        assert content is not None
        grade = grader.grade(content, f"Step 1: 7.\nStep 2: so {text}")
        assert (grade.answer, grade.correct) == (content, True)
    assert grader.grade("5", "Step 1: The answer is 5. Check it: 2 + 2 = 4").correct
    assert grader.grade("18", r"\boxed{18} or \boxed{}").correct
    assert grader.grade("x", r"So it is \boxed {x}").correct


def test_the_number_of_a_step_is_no_answer(grader: MathVerify) -> None:
    for text in ("Step 1: I think.\nStep 2: I give up.", "Step 2: I give up.", "Step 1: Hm.\nStep 2: The answer is"):
        assert grader.grade("2", text) == Grade(None, False)
    assert grader.grade("7", "Step 1: so it is 7.\nStep 2: That is all.").correct


def test_an_empty_gold_answer_is_never_met(grader: MathVerify) -> None:
    assert grader.grade(" ", r"\boxed{}") == Grade(None, False, "EmptyGold")


def test_plain_integers_need_no_worker() -> None:
    with MathVerify(seconds=1) as grader:
        assert grader.grade("12", r"\boxed{ +12 }").correct
        assert not grader.grade("12", r"\boxed{13}").correct
        assert grader.worker_pid is None


BUSY = r"\boxed{9^{9^{9^9}}}"

NASTY = {
    "a tower of powers": BUSY,
    "powers in plain text": "9^9^9^9",
    "deep nesting": "\\boxed{" + "(" * 3000 + "1" + ")" * 3000 + "}",
    "deep fractions": "\\boxed{" + "\\frac{1}{" * 400 + "1" + "}" * 400 + "}",
    "many roots": "\\boxed{" + "\\sqrt{" * 500 + "2" + "}" * 500 + "}",
    "a million characters": "9" * 1_000_000,
    "a million words": "so the answer is " * 60_000,
    "unbalanced": "\\boxed{" * 2000 + "}" * 3,
    "zero bytes and surrogates": "\\boxed{\x00\ud800}",
    "code": "\\boxed{__import__('os')._exit(3)}",
    "a template": "\\boxed{{{7*7}}}",
    "division by zero": "\\boxed{1/0}",
    "a long equation": "\\boxed{" + "x+" * 3000 + "1}",
}


@pytest.fixture(scope="module")
def strict_grader() -> Iterator[MathVerify]:
    with MathVerify(seconds=1) as grader:
        yield grader


@pytest.mark.parametrize("name", NASTY)
def test_nasty_answers_are_wrong_and_the_next_one_is_graded(strict_grader: MathVerify, name: str) -> None:
    assert not strict_grader.grade("1/3", NASTY[name]).correct
    assert strict_grader.grade("1/3", r"\boxed{2/6}").correct


def test_a_worker_that_dies_is_replaced() -> None:
    with MathVerify(seconds=1, wall_seconds=20) as grader:
        assert grader.grade("1/2", r"\boxed{0.5}").correct
        first = grader.worker_pid
        assert first is not None

        assert grader.grade("1/2", BUSY) == Grade(None, False, "Timeout")
        assert not Path(f"/proc/{first}").exists()

        assert grader.grade("1/2", r"\boxed{0.5}").correct
        second = grader.worker_pid
        assert second is not None
        os.kill(second, signal.SIGKILL)
        assert grader.grade("1/2", r"\boxed{0.5}") == Grade(None, False, "Crash")

        assert grader.grade("1/2", r"\boxed{0.5}").correct


def test_a_worker_that_neither_works_nor_answers_is_killed() -> None:
    with MathVerify(seconds=5, wall_seconds=3) as grader:
        grader.grade("x", r"\boxed{x}")
        stopped = grader.worker_pid
        assert stopped is not None
        os.kill(stopped, signal.SIGSTOP)

        assert grader.grade("x", r"\boxed{x}") == Grade(None, False, "Timeout")
        assert not Path(f"/proc/{stopped}").exists()


def test_grades_come_in_the_order_of_the_items_and_are_reported_one_by_one() -> None:
    seen: list[Grade] = []

    with MathVerify(seconds=5) as grader:
        grades = grade_all(grader, [("1", r"\boxed{1}"), ("1", r"\boxed{2}"), ("", "x")], seen.append)

    assert [grade.correct for grade in grades] == [True, False, False]
    assert seen == grades


def test_gold_answers_of_gsm8k_are_met_by_themselves(grader: MathVerify) -> None:
    if not GSM8K.is_file():
        pytest.skip(f"{GSM8K} is not here: GSM8K comes with the shared data")
    lines = GSM8K.read_text().splitlines()[:20]

    problems = list(parse_records("\n".join(lines), str(GSM8K), GradedProblem))

    for line, problem in zip(lines, problems, strict=True):
        assert json.loads(line)["answer"].endswith(f"#### {problem.answer}")
        assert grader.grade(problem.answer, rf"Step 1: \boxed{{{problem.answer}}}").correct
        assert grader.grade(problem.answer, f"Step 1: so it is {problem.answer}.").correct
        assert not grader.grade(problem.answer, r"\boxed{123456}").correct
