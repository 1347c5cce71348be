"""Control experiments (`judge.control`): the same search under a judge that knows nothing, or that says the opposite.

Each stands around a judge, whichever it is, and gives the search what a judge gives.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from psr_runtime.data.records import Verdict
from psr_runtime.search.judges import Assessment, CandidateSet, Judge, JudgeSetup
from psr_runtime.search.judges.pairwise import comparison_seed
from psr_runtime.search.scores import comparisons, wins


@dataclass(frozen=True)
class Random:
    """A seeded coin decides every comparison, and wins are counted. The judge inside is never asked."""

    judge: Judge
    setup: JudgeSetup

    async def assess(self, candidates: CandidateSet) -> Assessment:
        orders = self.setup.config.orders
        verdicts = [
            Verdict(
                a=a,
                b=b,
                choice="A" if comparison_seed(self.setup.seed, candidates, a, b) % 2 else "B",
                text="control: a seeded coin",
            )
            for a, b in comparisons(len(candidates.texts), orders)
        ]
        return Assessment(wins(candidates.multiplicity, verdicts, orders), verdicts)


@dataclass(frozen=True)
class Inverted:
    """The opposite of what the judge inside says: verdicts swapped and wins counted anew, or scores negated."""

    judge: Judge
    setup: JudgeSetup

    async def assess(self, candidates: CandidateSet) -> Assessment:
        plain = await self.judge.assess(candidates)
        if not plain.verdicts:
            return Assessment([-score for score in plain.scores], tokens=plain.tokens)
        verdicts = [_swapped(verdict) for verdict in plain.verdicts]
        return Assessment(wins(candidates.multiplicity, verdicts, self.setup.config.orders), verdicts, plain.tokens)


CONTROLS: Mapping[str, Callable[[Judge, JudgeSetup], Judge]] = {
    "None": lambda judge, _: judge,
    "Random": Random,
    "Inverted": Inverted,
}
"""By `judge.control`: what is put around the judge."""


def _swapped(verdict: Verdict) -> Verdict:
    if verdict.choice is None:
        return verdict
    return verdict.model_copy(update={"choice": "B" if verdict.choice == "A" else "A"})
