"""The policy as its own judge: pairwise verdicts on the candidates of one level, wins counted (paper §3.3)."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from psr_runtime.data.records import Verdict
from psr_runtime.engine import Sampling, seed_of
from psr_runtime.prompts.grammar import verdict
from psr_runtime.search.judges import Assessment, CandidateSet, JudgeSetup
from psr_runtime.search.scores import comparisons, wins


@dataclass(frozen=True)
class Pairwise:
    """Asks the model which of two next steps is better, for every comparison that `judge.orders` wants."""

    setup: JudgeSetup

    async def assess(self, candidates: CandidateSet) -> Assessment:
        """Verdicts on every comparison, asked in the order of slot A, and the wins of each text (paper eq. 2)."""
        orders = self.setup.config.orders
        answers = await asyncio.gather(
            *(self._ask(candidates, a, b) for a, b in comparisons(len(candidates.texts), orders))
        )
        verdicts = [answer for answer, _ in answers]
        return Assessment(
            wins(candidates.multiplicity, verdicts, orders), verdicts, sum(tokens for _, tokens in answers)
        )

    async def _ask(self, candidates: CandidateSet, a: int, b: int) -> tuple[Verdict, int]:
        """One verdict and the tokens it took; a prompt that fills the context is not sent and gives no verdict."""
        setup, config = self.setup, self.setup.config
        one, other = candidates.texts[a], candidates.texts[b]
        prompt = setup.tokenizer.prompt_ids(
            setup.templates.judge_messages(candidates.problem, candidates.steps, one, other)
        )
        room = setup.context - len(prompt)
        if room < 1:
            return Verdict(a=a, b=b, choice=None, text=""), 0
        sampling = Sampling(
            max_tokens=min(config.max_tokens, room),
            temperature=config.temperature,
            top_p=config.top_p,
            seed=comparison_seed(setup.seed, candidates, a, b) if setup.seeded and config.temperature > 0 else None,
            stop_token_ids=tuple(setup.tokenizer.eos_ids),
        )
        completion, *_ = await setup.engine.complete(prompt, sampling, purpose="judge", affinity=candidates.problem_id)
        text = setup.tokenizer.decode(completion.token_ids)
        choice = verdict(text, cut_off=completion.finish_reason == "length")
        return Verdict(a=a, b=b, choice=choice, text=text), len(completion.token_ids)


def comparison_seed(seed: tuple[int, int], candidates: CandidateSet, a: int, b: int) -> int:
    """Seed of the comparison of text `a` in slot A with text `b` in slot B, 48 bits."""
    place = (candidates.problem_id, candidates.level, candidates.attempt)
    return seed_of(*seed, *place, "judge", candidates.texts[a], candidates.texts[b])
