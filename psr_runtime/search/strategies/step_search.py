"""Step search with self-judging: one problem's loop (paper §3.3, §4), and `search.strategy` StepSearch.

A level samples w candidates for the next step, has them judged and decides: keep the best, accept a unanimous
one, roll back, or end. Where the search stands follows from its finished levels alone (`Position`), so a log of them
is all that resuming needs.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from psr_runtime.config import SearchConfig
from psr_runtime.data.records import Candidate, Level, Score, SearchProblem, Tree
from psr_runtime.engine import Sampling, seed_of
from psr_runtime.prompts.grammar import header
from psr_runtime.protocol.errors import DataError
from psr_runtime.search.candidates import read_candidate
from psr_runtime.search.judges import CandidateSet
from psr_runtime.search.scores import best_and_worst, by_candidate, distinct_texts, multiplicities
from psr_runtime.search.strategies import Log, SearchSetup

Outcome = Literal["Solved", "RollbackLimit", "IterationLimit", "ContextFull"]


@dataclass(frozen=True)
class StepSearch:
    """Samples, judges and decides level after level of one problem."""

    setup: SearchSetup

    async def search(self, problem: SearchProblem, prompt_ids: list[int], finished: Sequence[Level], log: Log) -> Tree:
        """See `SearchStrategy.search`."""
        levels = list(finished)
        position = Position.after(levels, self.setup.config)
        while position.outcome is None:
            level = await self._sample(problem, prompt_ids, position)
            await log(level)
            levels.append(level)
            position = Position.after(levels, self.setup.config)
        kept = [step.number for step in position.path]
        return Tree(problem_id=problem.id, problem=problem.problem, levels=levels, kept=kept, outcome=position.outcome)

    async def _sample(self, problem: SearchProblem, prompt_ids: list[int], position: Position) -> Level:
        """Sample, judge and decide one level."""
        number, attempt = position.level, position.attempt
        seed = (*self.setup.seed, problem.id, number, attempt)
        sampled = await self._candidates(problem.id, prompt_ids + position.ids, number, seed)
        candidates = [candidate for candidate, _ in sampled]
        random.Random(seed_of(*seed, "shuffle")).shuffle(candidates)

        distinct = distinct_texts([None if item.fault else item.text for item in candidates])
        texts = list(dict.fromkeys(item.text for item in candidates if not item.fault))
        assessment = await self.setup.judge.assess(
            CandidateSet(
                problem_id=problem.id,
                problem=problem.problem,
                steps=position.texts,
                texts=texts,
                multiplicity=multiplicities(distinct),
                level=number,
                attempt=attempt,
            )
        )
        scores = by_candidate(distinct, assessment.scores)
        decision, reason, best, worst = decide(candidates, scores, len(texts), position.ties, self.setup.config)
        return Level(
            problem_id=problem.id,
            number=position.count,
            level=number,
            attempt=attempt,
            path_digest=position.digest,
            candidates=candidates,
            distinct=distinct,
            verdicts=list(assessment.verdicts),
            scores=scores,
            decision=decision,
            reason=reason,
            best=best,
            worst=worst,
            candidate_tokens=sum(tokens for _, tokens in sampled),
            judge_tokens=assessment.tokens,
        )

    async def _candidates(
        self, problem_id: str, prompt: list[int], level: int, seed: tuple[str | int, ...]
    ) -> list[tuple[Candidate, int]]:
        """w candidates from one request, each with the tokens it took; none where the context is full."""
        config = self.setup.config
        room = self.setup.context - len(prompt)
        if room < 1:
            return []
        clamped = min(config.max_step_tokens, room)
        sampling = Sampling(
            max_tokens=clamped,
            temperature=config.temperature,
            top_p=config.top_p,
            n=config.width,
            seed=seed_of(*seed, "candidates") if config.seeded_requests else None,
            stop=("\n" + header(level + 1),),
            stop_token_ids=tuple(self.setup.tokenizer.eos_ids),
        )
        completions = await self.setup.engine.complete(prompt, sampling, purpose="candidates", affinity=problem_id)
        full = clamped < config.max_step_tokens
        return [
            (read_candidate(item, self.setup.tokenizer, level, context_full=full), len(item.token_ids))
            for item in completions
        ]


def decide(
    candidates: Sequence[Candidate], scores: Sequence[Score | None], distinct: int, ties: int, config: SearchConfig
) -> tuple[Literal["Keep", "Accept", "RollBack", "End"], str, int | None, int | None]:
    """What a judged level leads to. Paper eqs. 3-5, 8.7.

    Args:
        scores: of each candidate, None where it cannot be used.
        distinct: number of distinct usable texts.
        ties: earlier ties at this level in this problem.

    Returns:
        Decision, reason, index of the best and of the worst candidate (None without a pair).
    """
    pair = best_and_worst(scores)
    if pair is not None:
        return "Keep", "best", *pair
    usable = [index for index, item in enumerate(candidates) if item.fault is None]
    if config.accept_unanimous and distinct == 1:
        return "Accept", "unanimous", usable[0], None
    if not usable and all(item.fault == "ContextFull" for item in candidates):
        return "End", "ContextFull", None, None
    if ties + 1 > config.max_rollbacks:
        return "End", "RollbackLimit", None, None
    return "RollBack", "tie" if distinct > 1 else "unanimous" if distinct == 1 else "unusable", None, None


@dataclass(frozen=True)
class Step:
    """A kept step: its candidate and the number of the level that it came from."""

    number: int
    candidate: Candidate


@dataclass(frozen=True)
class Position:
    """Where a search stands after its finished levels.

    Attributes:
        path: the kept steps.
        count: levels sampled, rolled-back ones included (ours).
        attempt: how often the level to come was sampled before.
        ties: ties at the level to come.
        outcome: why the search is over, None while it is not.
    """

    path: tuple[Step, ...]
    count: int
    attempt: int
    ties: int
    outcome: Outcome | None

    @property
    def level(self) -> int:
        """Number of the step to sample next, from 1."""
        return len(self.path) + 1

    @property
    def ids(self) -> list[int]:
        """Ids of the kept steps, as sampled."""
        return [token for step in self.path for token in step.candidate.ids]

    @property
    def texts(self) -> list[str]:
        """Texts of the kept steps."""
        return [step.candidate.text for step in self.path]

    @property
    def digest(self) -> str:
        """Identity of the path, by which a logged level is tied to what it continues."""
        return hashlib.sha256(",".join(map(str, self.ids)).encode()).hexdigest()[:16]

    @classmethod
    def after(cls, levels: Sequence[Level], config: SearchConfig) -> Position:
        """The position that finished levels lead to.

        Raises:
            DataError: the levels do not continue one another.
        """
        path: list[Step] = []
        sampled: Counter[int] = Counter()
        ties: Counter[int] = Counter()
        outcome: Outcome | None = None
        for number, level in enumerate(levels):
            here = cls(tuple(path), number, 0, 0, None)
            if (level.number, level.level, level.path_digest) != (number, here.level, here.digest):
                raise DataError(
                    f"level log of problem {level.problem_id}: record {number} does not continue the one before; "
                    "the log was changed"
                )
            sampled[level.level] += 1
            if level.decision in ("Keep", "Accept"):
                assert level.best is not None
                chosen = level.candidates[level.best]
                path.append(Step(number, chosen))
                if chosen.final:
                    outcome = "Solved"
            elif level.decision == "RollBack":
                ties[level.level] += 1
                if path:
                    path.pop()
            else:
                outcome = "ContextFull" if level.reason == "ContextFull" else "RollbackLimit"
        if outcome is None and len(levels) >= config.max_iterations:
            outcome = "IterationLimit"
        coming = len(path) + 1
        return cls(tuple(path), len(levels), sampled[coming], ties[coming], outcome)
