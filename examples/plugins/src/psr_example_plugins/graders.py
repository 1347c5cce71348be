"""`evaluation.grader: Exact`: an answer is right when it is written exactly as the gold answer is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from psr_runtime.evaluation.graders import Grade
from psr_runtime.prompts.grammar import boxed


class Exact:
    """Compares the last box with the gold answer, character by character; spaces around them do not count."""

    def grade(self, gold: str, response: str) -> Grade:
        """See `psr_runtime.evaluation.graders.Grader`."""
        if not gold.strip():
            return Grade(None, False, "EmptyGold")
        answer = boxed(response)
        return Grade(answer, answer is not None and answer.strip() == gold.strip())


@contextmanager
def exact(seconds: float) -> Iterator[Exact]:
    """A grader for one evaluation. It needs no limit of time: it computes nothing."""
    yield Exact()
