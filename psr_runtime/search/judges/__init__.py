"""Judges: how good each candidate step of a level is (paper §3.3).

A manifest names one as `judge.strategy`; a package brings others by an entry point in the group `psr.judges`. What a
name stands for is called with a `JudgeSetup` and gives a `Judge`. How verdicts are replaced in control experiments
stands in `controls.py` and works for every judge.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from psr_runtime.config import JudgeConfig
from psr_runtime.config.plugins import Registry
from psr_runtime.data.records import Score, Verdict
from psr_runtime.engine import Engine
from psr_runtime.prompts.templates import Templates
from psr_runtime.prompts.tokens import Tokenizer


@dataclass(frozen=True)
class JudgeSetup:
    """What a judge works with.

    Attributes:
        engine: server of the policy, which is its own judge.
        templates: the prompts of this run.
        config: the manifest's `judge`.
        context: tokens that a prompt and its judgement may have together.
        seeded: whether a seed goes with each request.
        seed: prefix of every seed: run seed and iteration.
    """

    engine: Engine
    tokenizer: Tokenizer
    templates: Templates
    config: JudgeConfig
    context: int
    seeded: bool
    seed: tuple[int, int]


@dataclass(frozen=True)
class CandidateSet:
    """The distinct candidates of one level, and where they stand.

    Attributes:
        problem_id: keeps the requests of a problem on one replica, and is part of every seed.
        problem: text of the problem.
        steps: texts of the kept steps before this level.
        texts: distinct candidate texts.
        multiplicity: how many candidates have each text.
        level, attempt: step number and how often it was sampled before, both part of every seed.
    """

    problem_id: str
    problem: str
    steps: Sequence[str]
    texts: Sequence[str]
    multiplicity: Sequence[int]
    level: int
    attempt: int


@dataclass(frozen=True)
class Assessment:
    """What a judge says about a `CandidateSet`.

    Attributes:
        scores: of each text, finite; the best step is the one with the highest. Whole numbers where wins are counted.
        verdicts: the comparisons behind the scores; empty for a judge that scores each step by itself.
        tokens: how many tokens the judgements took.
    """

    scores: Sequence[Score]
    verdicts: Sequence[Verdict] = ()
    tokens: int = 0


class Judge(Protocol):
    """Scores the candidates of one level."""

    async def assess(self, candidates: CandidateSet) -> Assessment:
        """Score every text. The same set gives the same scores wherever the engine repeats itself."""


JUDGES: Registry[Callable[[JudgeSetup], Judge]] = Registry.of(JudgeConfig, "strategy", "judge.strategy")
"""Every judge by its name in a manifest."""
