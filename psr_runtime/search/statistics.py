"""What is in a pair set: counts for result and report."""

from __future__ import annotations

from collections.abc import Sequence

from psr_runtime.config.results import PairSetResult
from psr_runtime.data.records import Level, Pair, Tree


def statistics(trees: Sequence[Tree], pairs: Sequence[Pair]) -> PairSetResult:
    """Counts of a pair set for result and report; nothing in them varies between equal runs."""
    levels = [level for tree in trees for level in tree.levels]
    verdicts = [verdict for level in levels for verdict in level.verdicts]
    usable = [verdict for verdict in verdicts if verdict.choice is not None]
    candidates = [candidate for level in levels for candidate in level.candidates]
    agreeing = [agrees for level in levels for agrees in order_agreement(level)]
    outcomes = [tree.outcome for tree in trees]
    return PairSetResult(
        problems=len(trees),
        pairs=len(pairs),
        levels=len(levels),
        candidates=len(candidates),
        malformed=sum(item.fault == "Malformed" for item in candidates),
        truncated=sum(item.fault in ("Truncated", "ContextFull") for item in candidates),
        verdicts=len(verdicts),
        no_verdict=len(verdicts) - len(usable),
        share_a=round(sum(item.choice == "A" for item in usable) / len(usable), 4) if usable else None,
        agreement=round(sum(agreeing) / len(agreeing), 4) if agreeing else None,
        unanimous=sum(level.decision == "Accept" for level in levels),
        rollbacks=sum(level.decision == "RollBack" for level in levels),
        candidate_tokens=sum(level.candidate_tokens for level in levels),
        judge_tokens=sum(level.judge_tokens for level in levels),
        outcomes={name: outcomes.count(name) for name in sorted(set(outcomes))},
    )


def order_agreement(level: Level) -> list[bool]:
    """For each unordered pair that was judged in both orders: whether both calls prefer the same text."""
    choices = {(item.a, item.b): item.choice for item in level.verdicts}
    return [
        choice != choices[b, a]
        for (a, b), choice in choices.items()
        if a < b and choice is not None and choices.get((b, a)) is not None
    ]
