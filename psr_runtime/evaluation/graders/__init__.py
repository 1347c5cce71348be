"""Graders: whether an answer is right.

A manifest names one as `evaluation.grader`; a package brings others by an entry point in the group `psr.graders`. What
a name stands for is called with the seconds for one answer (`evaluation.gradingSeconds`) and gives a `Grader`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, Protocol

from psr_runtime.config import EvaluationConfig
from psr_runtime.config.plugins import Registry


@dataclass(frozen=True)
class Grade:
    """How one response was graded.

    Attributes:
        answer: the answer as the response states it, at most 500 characters, None where none stands in it.
        correct: whether it equals the gold answer.
        fault: why there was no comparison: the gold answer is empty, the time was over, or the worker died.
    """

    answer: str | None
    correct: bool
    fault: Literal["EmptyGold", "Timeout", "Crash"] | None = None


class Grader(Protocol):
    """Grades one response after the other. It never hangs and never raises because of what a model wrote."""

    def grade(self, gold: str, response: str) -> Grade:
        """Grade one response.

        Args:
            gold: the right answer, as the problem file has it; it may be empty.
            response: all that the model wrote, decoded without special tokens.
        """


GRADERS: Registry[Callable[[float], AbstractContextManager[Grader]]] = Registry.of(
    EvaluationConfig, "grader", "evaluation.grader"
)
"""Every grader by its name in a manifest."""


def grade_all(
    grader: Grader, items: Sequence[tuple[str, str]], on_done: Callable[[Grade], None] = lambda _: None
) -> list[Grade]:
    """Grade (gold, response) pairs in order.

    Args:
        on_done: called after each with its grade; what it raises ends the grading.

    Returns:
        A grade for each item, in their order.
    """
    grades = []
    for gold, response in items:
        grades.append(grader.grade(gold, response))
        on_done(grades[-1])
    return grades
