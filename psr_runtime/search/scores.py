"""Scores of candidates (paper eqs. 2-4): wins counted from verdicts, the best and the worst. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Literal

from psr_runtime.data.records import Score, Verdict
from psr_runtime.protocol.errors import ConfigurationError


def distinct_texts(texts: Sequence[str | None]) -> list[int | None]:
    """For each candidate the index of its text among the distinct ones, by first appearance.

    Args:
        texts: right-stripped text of each candidate in shuffled order, None for one that cannot be used.
    """
    order: dict[str, int] = {}
    return [None if text is None else order.setdefault(text, len(order)) for text in texts]


def comparisons(distinct: int, orders: Literal["Both", "Single"]) -> list[tuple[int, int]]:
    """The judge calls (slot A, slot B) among `distinct` texts, ordered by slot A."""
    return [(a, b) for a in range(distinct) for b in range(distinct) if (a != b if orders == "Both" else a < b)]


def wins(multiplicity: Sequence[int], verdicts: Sequence[Verdict], orders: Literal["Both", "Single"]) -> list[int]:
    """Score_l,i of each distinct text: the candidates that it beats. Paper eq. 2.

    Equal texts do not beat each other; a comparison of two texts counts once for every candidate that has them.

    Args:
        multiplicity: how many candidates have each distinct text.
        verdicts: one for each comparison asked.
        orders: Both: O(i, j) = 1 iff the call with i in slot A says A. Single: the one call decides both directions.

    Returns:
        Whole numbers from 0 to w - 1.
    """
    counted = [0] * len(multiplicity)
    for verdict in verdicts:
        if verdict.choice == "A":
            counted[verdict.a] += multiplicity[verdict.b]
        elif verdict.choice == "B" and orders == "Single":
            counted[verdict.b] += multiplicity[verdict.a]
    return counted


def multiplicities(distinct: Sequence[int | None]) -> list[int]:
    """How many candidates have each distinct text, in the order of the indices that `distinct_texts` gives."""
    counted = Counter(index for index in distinct if index is not None)
    return [counted[index] for index in sorted(counted)]


def by_candidate(distinct: Sequence[int | None], scores: Sequence[Score]) -> list[Score | None]:
    """The score of each candidate from those of the distinct texts; None for candidates that cannot be used.

    Raises:
        ConfigurationError: the judge did not give one finite number for each text.
    """
    texts = len(set(distinct) - {None})
    if len(scores) != texts or not all(math.isfinite(score) for score in scores):
        raise ConfigurationError(
            f"judge.strategy: the judge gave the scores {list(scores)} for {texts} texts; it must give one finite "
            "number for each"
        )
    return [None if index is None else scores[index] for index in distinct]


def best_and_worst(scores: Sequence[Score | None]) -> tuple[int, int] | None:
    """Indices of the best and the worst candidate (paper eqs. 3-4), ties to the lowest index.

    Returns:
        None where max == min, or nothing can be used: the level is a tie (paper §3.3).
    """
    usable = [value for value in scores if value is not None]
    if not usable or max(usable) == min(usable):
        return None
    return scores.index(max(usable)), scores.index(min(usable))
