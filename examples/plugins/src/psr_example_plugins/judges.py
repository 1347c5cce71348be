"""`judge.strategy: Shortest`: a baseline that knows nothing of mathematics and asks no model."""

from __future__ import annotations

from psr_runtime.search.judges import Assessment, CandidateSet, JudgeSetup


class Shortest:
    """Scores each candidate step by itself: the fewer characters, the better."""

    def __init__(self, setup: JudgeSetup) -> None:
        """The setup has the server, the tokenizer, the prompts and the manifest's `judge`. This judge needs nothing."""

    async def assess(self, candidates: CandidateSet) -> Assessment:
        """1 over the number of characters, between 0 and 1."""
        return Assessment([1 / len(text) for text in candidates.texts])
