"""Scores of candidates from verdicts (paper eq. 2): pure counting."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

from psr_runtime.data.records import Verdict


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


def score(
    distinct: Sequence[int | None], verdicts: Sequence[Verdict], orders: Literal["Both", "Single"]
) -> list[int | None]:
    """Score_l,i of each candidate: the others that it beats. Paper eq. 2.

    Equal texts do not beat each other; a comparison of two texts counts once for every candidate that has them.

    Args:
        distinct: as `distinct_texts` gives it.
        verdicts: one for each comparison asked.
        orders: Both: O(i, j) = 1 iff the call with i in slot A says A. Single: the one call decides both directions.

    Returns:
        Whole numbers from 0 to w - 1; None for candidates that cannot be used.
    """
    multiplicity = Counter(index for index in distinct if index is not None)
    wins: Counter[int] = Counter()
    for verdict in verdicts:
        if verdict.choice == "A":
            wins[verdict.a] += multiplicity[verdict.b]
        elif verdict.choice == "B" and orders == "Single":
            wins[verdict.b] += multiplicity[verdict.a]
    return [None if index is None else wins[index] for index in distinct]


def best_and_worst(scores: Sequence[int | None]) -> tuple[int, int] | None:
    """Indices of the best and the worst candidate (paper eqs. 3-4), ties to the lowest index.

    Returns:
        None where max == min, or nothing can be used: the level is a tie (paper §3.3).
    """
    usable = [value for value in scores if value is not None]
    if not usable or max(usable) == min(usable):
        return None
    return scores.index(max(usable)), scores.index(min(usable))
