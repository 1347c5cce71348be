"""How much the candidates of a level will differ, read off the IFT solutions that the policy learns from. Pure.

A policy that has learned from solutions writes steps as they are distributed there. So a step of a solution is taken
apart into words, and for each word the records say what else stands after the same words: nothing else, and every
candidate will have it; several words, and candidates will differ there. Numbers of the problem and of earlier steps
count as copied. In natural text almost every step has words that could be others, and candidates are all different; in
a small formal task many are the same, and are judged less often.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from psr_runtime.config import JudgeConfig, SearchConfig
from psr_runtime.data.records import IFTRecord
from psr_runtime.search.scores import comparisons

WORD = re.compile(r"\d+|[^\W\d_]+|[^\w\s]")
STEP_HEADER = re.compile(r"^Step \d+:")
READ, DRAWN = 8000, 400
"""Records that are read, and steps for which candidates are drawn."""
LONGEST = 8
"""Words before a word by which its neighbours are looked up, at most."""
ENOUGH = 3
"""Occurrences that a distribution is taken from."""
NUMBER, START = "#", "^"

Context = tuple[int | str, ...]
Distribution = dict[str, float]


@dataclass(frozen=True)
class Variety:
    """What a level is like.

    Attributes:
        calls: judge calls.
        unanimous: share of levels whose candidates are all the same text.
    """

    calls: float
    unanimous: float


@dataclass(frozen=True)
class _Word:
    """A word of a step with the words before it, longest first: numbers masked, and for a new number as they are."""

    text: str
    exact: tuple[Context, ...]
    masked: tuple[Context, ...]


def variety(records: Sequence[IFTRecord], search: SearchConfig, judge: JudgeConfig) -> Variety:
    """What the levels of a search will be like under a policy that has learned from these records."""
    read = records[:: max(1, len(records) // READ)][:READ]
    steps = [list(_words(record, level)) for record in read for level in range(len(record.steps))]
    rng = random.Random(0)
    drawn = rng.sample(steps, min(DRAWN, len(steps)))
    counts: dict[Context, Counter[str]] = {
        context: Counter() for step in drawn for word in step for context in (*word.exact, *word.masked)
    }
    for step in steps:
        for word in step:
            for context in word.exact:
                if context in counts:
                    counts[context][word.text] += 1
            for context in word.masked:
                if context in counts:
                    counts[context][_masked(word.text)] += 1
    distinct = [_distinct(step, counts, search, rng) for step in drawn] or [search.width]
    calls = [0 if judge.control == "Random" else len(comparisons(number, judge.orders)) for number in distinct]
    return Variety(sum(calls) / len(calls), sum(number == 1 for number in distinct) / len(distinct))


def _words(record: IFTRecord, level: int) -> Iterator[_Word]:
    """The words of a step after its header."""
    earlier = set(WORD.findall(" ".join([record.problem, *record.steps[:level]])))
    words = [START, *WORD.findall(STEP_HEADER.sub("", record.steps[level]))]
    masked = [_masked(word) for word in words]
    for at, word in enumerate(words[1:], 1):
        sizes = range(min(at, LONGEST), -1, -1)
        new = word.isdigit() and word not in earlier
        exact = tuple((START, *words[at - size : at]) for size in sizes) if new else ()
        yield _Word(word, exact, tuple((level, *masked[at - size : at]) for size in sizes))


def _masked(word: str) -> str:
    return NUMBER if word.isdigit() else word


def _distinct(
    step: Sequence[_Word], counts: dict[Context, Counter[str]], search: SearchConfig, rng: random.Random
) -> int:
    """How many different texts `width` candidates for a step are, drawn word by word."""
    candidates: list[list[str]] = [[] for _ in range(search.width)]
    for word in step:
        spread = _sampled(_spread(word, counts), search)
        if max(spread.values()) < 1:
            drawn = rng.choices(list(spread), list(spread.values()), k=search.width)
            for candidate, choice in zip(candidates, drawn, strict=True):
                candidate.append(choice)
    return len({tuple(candidate) for candidate in candidates})


def _spread(word: _Word, counts: dict[Context, Counter[str]]) -> Distribution:
    """What may stand in a word's place: for a new number which number, for any other word which word."""
    return _first(word.exact or word.masked, counts)


def _first(contexts: Sequence[Context], counts: dict[Context, Counter[str]]) -> Distribution:
    """The distribution after the longest context that occurs often enough."""
    for context in contexts:
        total = counts[context].total()
        if total >= ENOUGH or context is contexts[-1]:
            return {text: count / total for text, count in counts[context].items()}
    raise AssertionError("unreachable")


def _sampled(spread: Distribution, search: SearchConfig) -> Distribution:
    """A distribution as it is sampled from: sharpened by the temperature, without what top-p cuts off."""
    sharp = {text: share ** (1 / search.temperature) for text, share in spread.items()}
    total, kept, mass = sum(sharp.values()), {}, 0.0
    for text, share in sorted(sharp.items(), key=lambda item: (-item[1], item[0])):
        kept[text] = share / total
        mass += share / total
        if mass >= search.top_p - 1e-9:
            break
    return {text: share / mass for text, share in kept.items()}
