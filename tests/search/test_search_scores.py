"""Scores against the matrix they stand for, verdict by verdict (paper eq. 2)."""

from __future__ import annotations

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from psr_runtime.data.records import Score, Verdict
from psr_runtime.protocol.errors import ConfigurationError
from psr_runtime.search.scores import best_and_worst, by_candidate, comparisons, distinct_texts, multiplicities, wins

Orders = Literal["Both", "Single"]
Choice = Literal["A", "B"] | None


def brute_force(texts: list[str | None], choices: dict[tuple[str, str], Choice], orders: Orders) -> list[int | None]:
    """Σ_j O(i, j), the whole w × w matrix written out; two candidates of one text do not beat each other."""

    def beats(i: int, j: int) -> int:
        a, b = texts[i], texts[j]
        if i == j or a is None or b is None or a == b:
            return 0
        if orders == "Both":
            return choices[a, b] == "A"
        return choices[a, b] == "A" if (a, b) in choices else choices[b, a] == "B"

    everyone = range(len(texts))
    return [None if texts[i] is None else sum(beats(i, j) for j in everyone) for i in everyone]


def score(distinct: list[int | None], verdicts: list[Verdict], orders: Orders) -> list[Score | None]:
    """Scores of candidates as the search gets them from a judge that counts wins."""
    return by_candidate(distinct, wins(multiplicities(distinct), verdicts, orders))


@given(
    texts=st.lists(st.sampled_from([None, "a", "b", "c", "d", "e"]), max_size=8),
    orders=st.sampled_from(["Both", "Single"]),
    data=st.data(),
)
def test_scores_are_the_row_sums_of_the_matrix(texts: list[str | None], orders: Orders, data: st.DataObject) -> None:
    distinct = distinct_texts(texts)
    names = list(dict.fromkeys(text for text in texts if text is not None))
    asked = comparisons(len(names), orders)
    choices: list[Choice] = data.draw(
        st.lists(st.sampled_from(["A", "B", None]), min_size=len(asked), max_size=len(asked))
    )
    verdicts = [Verdict(a=a, b=b, choice=choice, text="") for (a, b), choice in zip(asked, choices, strict=True)]
    by_texts = {(names[item.a], names[item.b]): item.choice for item in verdicts}

    scores = score(distinct, verdicts, orders)

    assert scores == brute_force(texts, by_texts, orders)
    usable = [value for value in scores if value is not None]
    if not usable or max(usable) == min(usable):
        assert best_and_worst(scores) is None
    else:
        assert best_and_worst(scores) == (scores.index(max(usable)), scores.index(min(usable)))


def test_each_distinct_comparison_is_asked_once_in_the_order_of_slot_a() -> None:
    assert comparisons(3, "Both") == [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)]
    assert comparisons(3, "Single") == [(0, 1), (0, 2), (1, 2)]
    assert comparisons(1, "Both") == comparisons(0, "Both") == []
    assert distinct_texts(["a", None, "b", "a"]) == [0, None, 1, 0]


@pytest.mark.parametrize(("orders", "wanted"), [("Both", [0, 0]), ("Single", [0, 0])])
def test_without_a_verdict_neither_gains(orders: Orders, wanted: list[int]) -> None:
    verdicts = [Verdict(a=a, b=b, choice=None, text="?") for a, b in comparisons(2, orders)]
    assert score([0, 1], verdicts, orders) == wanted


def test_one_verdict_decides_both_directions_only_in_single_order() -> None:
    says_b = [Verdict(a=0, b=1, choice="B", text="")]
    assert score([0, 1, 1], says_b, "Single") == [0, 1, 1]
    assert score([0, 1, 1], says_b, "Both") == [0, 0, 0]


@pytest.mark.parametrize("scores", [[1.0], [1.0, 2.0, 3.0], [1.0, float("nan")], [1.0, float("inf")]])
def test_a_judge_that_does_not_score_every_text_is_refused(scores: list[float]) -> None:
    assert by_candidate([1, None, 0, 1], [0.5, -2]) == [-2, None, 0.5, -2]
    with pytest.raises(ConfigurationError, match=r"judge.strategy: the judge gave the scores .* for 2 texts"):
        by_candidate([1, None, 0, 1], scores)
