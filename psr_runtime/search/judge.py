"""The policy as its own judge: pairwise verdicts on the candidates of one level (paper §3.3)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from psr_runtime.config import JudgeConfig
from psr_runtime.data.records import Verdict
from psr_runtime.engine import Engine, Sampling, seed_of
from psr_runtime.prompts.grammar import verdict
from psr_runtime.prompts.templates import Templates
from psr_runtime.prompts.tokens import Tokenizer
from psr_runtime.search.scores import comparisons


@dataclass(frozen=True)
class Judge:
    """Asks the model which of two next steps is better.

    Attributes:
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

    async def compare(
        self, problem_id: str, problem: str, steps: Sequence[str], texts: Sequence[str], level: int, attempt: int
    ) -> tuple[list[Verdict], int]:
        """Verdicts on every comparison among distinct candidate texts, asked in the order of slot A.

        Args:
            problem_id: keeps the requests of a problem on one replica, and is part of every seed.
            problem: text of the problem.
            steps: texts of the kept steps.
            texts: distinct candidate texts.
            level, attempt: of the level, part of every seed.

        Returns:
            The verdicts, and how many tokens the judgements took.
        """

        async def ask(a: int, b: int) -> tuple[Verdict, int]:
            seed = seed_of(*self.seed, problem_id, level, attempt, "judge", texts[a], texts[b])
            if self.config.control == "Random":
                return Verdict(a=a, b=b, choice="A" if seed % 2 else "B", text="control: a seeded coin"), 0
            prompt = self.tokenizer.prompt_ids(self.templates.judge_messages(problem, steps, texts[a], texts[b]))
            room = self.context - len(prompt)
            if room < 1:
                return Verdict(a=a, b=b, choice=None, text=""), 0
            sampling = Sampling(
                max_tokens=min(self.config.max_tokens, room),
                temperature=self.config.temperature,
                top_p=self.config.top_p,
                seed=seed if self.seeded and self.config.temperature > 0 else None,
                stop_token_ids=tuple(self.tokenizer.eos_ids),
            )
            completion, *_ = await self.engine.complete(prompt, sampling, purpose="judge", affinity=problem_id)
            text = self.tokenizer.decode(completion.token_ids)
            choice = verdict(text)
            if self.config.control == "Inverted":
                choice = _other(choice)
            return Verdict(a=a, b=b, choice=choice, text=text), len(completion.token_ids)

        answers = await asyncio.gather(*(ask(a, b) for a, b in comparisons(len(texts), self.config.orders)))
        return [answer for answer, _ in answers], sum(tokens for _, tokens in answers)


def _other(choice: Literal["A", "B"] | None) -> Literal["A", "B"] | None:
    if choice is None:
        return None
    return "B" if choice == "A" else "A"
