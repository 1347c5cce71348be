"""Texts that stand twice: among the problems, and in what is trained on and what is evaluated."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from psr_runtime.check.findings import Finding, error, fact, warning
from psr_runtime.check.subject import DataSet, Subject
from psr_runtime.protocol.errors import DataError

GRAM = 13
"""Words in a row that count as the same text (Brown et al. 2020, appendix C)."""
WORTHLESS = 0.1
"""An evaluation of whose problems a larger share was trained on measures memory."""
WORD = re.compile(r"\w+")


def words_of(text: str) -> list[str]:
    """A text without case, punctuation and spacing."""
    return WORD.findall(text.casefold())


def grams_of(words: Sequence[str]) -> Iterable[tuple[str, ...]]:
    """Every row of `GRAM` words; of a shorter text the whole."""
    if len(words) <= GRAM:
        return (tuple(words),) if words else ()
    return (tuple(words[at : at + GRAM]) for at in range(len(words) - GRAM + 1))


def problems_are_distinct(subject: Subject) -> Iterator[Finding]:
    """No problem of the searches stands twice; those that do are fewer than the rounds can spare."""
    problems = subject.of("problems")
    if problems is None:
        return
    first: dict[str, int] = {}
    repeated: list[tuple[int, int]] = []
    for number, text in enumerate(problems.texts, 1):
        key = " ".join(words_of(text))
        if key in first:
            repeated.append((number, first[key]))
        else:
            first[key] = number
    if not repeated:
        yield fact("duplicates", problems.field, f"{len(first)} problems, none twice")
        return
    number, other = repeated[0]
    message = (
        f"{problems.uri}: {len(repeated)} of {len(problems.texts)} problems stand there twice; record {number} is "
        f"record {other}"
    )
    asked = sum(item.count for item in subject.config.rounds if not item.allow_reuse)
    if asked > len(first):
        message += f"; the rounds take {asked} and only {len(first)} differ"
        yield error("duplicates", problems.field, message, "remove what stands twice, and give more", DataError)
    else:
        yield warning("duplicates", problems.field, message, "remove what stands twice")


def benchmarks_are_unseen(subject: Subject) -> Iterator[Finding]:
    """No problem of an evaluation shares 13 words in a row with a problem that is searched or trained on."""
    benchmarks = [item for item in subject.data_sets if item.role == "evaluation" and item.records.value]
    seen = [item for role in ("problems", "ift", "eft") if (item := subject.of(role)) is not None]
    for benchmark in benchmarks:
        tested: dict[tuple[str, ...], list[int]] = {}
        for number, text in enumerate(benchmark.texts, 1):
            for gram in grams_of(words_of(text)):
                tested.setdefault(gram, []).append(number)
        clean = True
        for item in seen:
            leaked = _leaked(tested, item)
            clean &= not leaked
            if leaked:
                yield _contaminated(benchmark, item, leaked)
        if clean and seen:
            yield fact("contamination", benchmark.field, f"no problem shares {GRAM} words with what is trained on")


def _leaked(tested: dict[tuple[str, ...], list[int]], item: DataSet) -> dict[int, int]:
    """Records of a benchmark that an item holds, each with the first record that holds it."""
    leaked: dict[int, int] = {}
    for number, text in enumerate(item.texts, 1):
        for gram in grams_of(words_of(text)):
            for record in tested.get(gram, ()):
                leaked.setdefault(record, number)
    return leaked


def _contaminated(benchmark: DataSet, item: DataSet, leaked: dict[int, int]) -> Finding:
    record, number = min(leaked.items())
    share = len(leaked) / len(benchmark.texts)
    message = (
        f"{len(leaked)} of {len(benchmark.texts)} problems share {GRAM} words in a row with {item.uri}; record "
        f"{record} with its record {number}"
    )
    todo = f"remove them from {item.field}"
    if share > WORTHLESS:
        return error("contamination", benchmark.field, f"{message}: it would measure memory", todo, DataError)
    return warning("contamination", benchmark.field, message, todo)
