"""Numbers that no artefact holds: errors of accuracies, ties, the judge's success on the policy's own candidates."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean, variance

from psr_runtime.data.records import Level, Tree
from psr_runtime.report.oracles import StepOracle


@dataclass(frozen=True)
class Estimate:
    """A value and its standard error, both as shares (0.5 is 50 %)."""

    value: float
    standard_error: float


def accuracy(correct: int, problems: int) -> Estimate:
    """Share of right answers with the standard error of a binomial share, sqrt(p (1 - p) / n)."""
    share = correct / problems
    return Estimate(share, math.sqrt(share * (1 - share) / problems))


def difference(one: Mapping[str, bool], other: Mapping[str, bool]) -> Estimate:
    """Accuracy of `one` minus that of `other`.

    On the same problems the error is that of the paired difference, which is smaller than that of two separate
    samples.

    Args:
        one, other: problem id -> whether it was answered right.
    """
    if one.keys() == other.keys() and len(one) > 1:
        change = [float(one[name]) - float(other[name]) for name in one]
        return Estimate(fmean(change), math.sqrt(variance(change) / len(change)))
    mine, theirs = (accuracy(sum(answers.values()), len(answers)) for answers in (one, other))
    return Estimate(mine.value - theirs.value, math.hypot(mine.standard_error, theirs.standard_error))


@dataclass(frozen=True)
class Round:
    """What is counted over the searches of one round, by an oracle of steps where there is one.

    Attributes:
        calls: judge calls where exactly one of the two steps is right; one without a verdict is among them.
        calls_right: of these, calls whose verdict names the right step. Paper Table 6.
        steps: usable candidates that the oracle can tell.
        steps_right: of these, right ones.
        ties: levels where two or more distinct candidates got equal scores (paper §3.3).
        samples: a few trees to look at.
    """

    calls: int
    calls_right: int
    steps: int
    steps_right: int
    ties: int
    samples: list[Tree]


def summarise(trees: Iterable[Tree], oracle: StepOracle | None, samples: int) -> Round:
    """Go through a round's searches once, without keeping them: they can be larger than memory.

    Levels that were rolled back count like all others. The samples are the first tree with a pair and no roll-back,
    the first with a pair and a roll-back, then the first ones with a pair, then the first ones.
    """
    calls = calls_right = steps = steps_right = tied = 0
    smooth: list[Tree] = []
    rolled_back: list[Tree] = []
    paired: list[Tree] = []
    first: list[Tree] = []
    for tree in trees:
        for level in tree.levels:
            tied += is_tie(level)
            if oracle is not None:
                asked = judged(level, oracle)
                calls += len(asked)
                calls_right += sum(asked)
                answers = [oracle(item.text) for item in level.candidates if item.fault is None]
                steps += len(answers) - answers.count(None)
                steps_right += answers.count(True)
        decisions = {level.decision for level in tree.levels}
        kinds = [first]
        if "Keep" in decisions:
            kinds += [paired, rolled_back if "RollBack" in decisions else smooth]
        for kind in kinds:
            if len(kind) < samples:
                kind.append(tree)
    wanted = {tree.problem_id: tree for tree in [*smooth[:1], *rolled_back[:1], *paired, *first]}
    return Round(calls, calls_right, steps, steps_right, tied, list(wanted.values())[:samples])


def judged(level: Level, oracle: StepOracle) -> list[bool]:
    """For each judge call of a level where exactly one step is right: whether the verdict names it."""
    truth = [oracle(text) for text in distinct_texts(level)]
    return [
        verdict.choice == ("A" if truth[verdict.a] else "B")
        for verdict in level.verdicts
        if {truth[verdict.a], truth[verdict.b]} == {True, False}
    ]


def is_tie(level: Level) -> bool:
    """Whether two or more distinct candidates got equal scores."""
    scores = {score for score in level.scores if score is not None}
    return len(distinct_texts(level)) > 1 and len(scores) == 1


def distinct_texts(level: Level) -> list[str]:
    """Text of each distinct usable candidate, in the order of the indices that verdicts use."""
    texts: dict[int, str] = {}
    for index, candidate in zip(level.distinct, level.candidates, strict=True):
        if index is not None:
            texts.setdefault(index, candidate.text)
    return [texts[index] for index in sorted(texts)]
