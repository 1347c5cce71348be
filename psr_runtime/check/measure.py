"""Means over the data at hand, from which the estimate is worked out."""

from __future__ import annotations

from collections.abc import Sequence

from psr_runtime.check.checks.lengths import step_tokens
from psr_runtime.check.estimate import UNKNOWN, Measured
from psr_runtime.check.subject import Subject
from psr_runtime.check.variety import variety
from psr_runtime.prompts.grammar import header


def measure(subject: Subject) -> Measured | None:
    """Means in tokens; None where nothing tells them: no tokenizer, or no record of what is to be written."""
    tokenizer, config = subject.tokenizer.value, subject.config
    ift, eft = subject.of("ift"), subject.of("eft")
    lacks_solutions = ift is None and (config.search is not None or config.evaluations)
    lacks_judgements = eft is None and config.judge is not None
    if tokenizer is None or not subject.lengths or lacks_solutions or lacks_judgements:
        return None
    records = [subject.lengths[role] for role in ("ift", "eft") if role in subject.lengths]
    count = sum(item.count for item in records)
    total = sum(item.count * _mean([sum(pair) for pair in item.even]) for item in records)
    solutions = subject.lengths["ift"].even if "ift" in subject.lengths else ()
    judgements = subject.lengths["eft"].even if "eft" in subject.lengths else ()
    prompts = subject.lengths["problems"].even if "problems" in subject.lengths else ()
    pairs = subject.lengths.get("pairs")
    solved = ift.records.value or [] if ift is not None else []
    differing = variety(solved, config.search, config.judge) if solved and config.search and config.judge else UNKNOWN
    return Measured(
        sft=(count, total / count if count else 0.0),
        prompt=_mean([prompt for prompt, _ in prompts]),
        steps=[len(record.steps) for record in solved],
        step=_mean(step_tokens(subject, ift)) if ift is not None else 0.0,
        solution=_mean([response for _, response in solutions]),
        judge_prompt=_mean([prompt for prompt, _ in judgements]),
        judgement=_mean([response for _, response in judgements]) if eft is not None else 0.0,
        header=float(min(len(tokenizer.encode(header(2) + end)) for end in ("", " "))),
        pairs=(pairs.count, _mean([2 * sum(pair) for pair in pairs.even])) if pairs is not None else (0, 0.0),
        evaluations={
            item.name: (lengths.count, _mean([prompt for prompt, _ in lengths.even]))
            for item in subject.data_sets
            if item.role == "evaluation" and (lengths := subject.lengths.get(item.name)) is not None
        },
        variety=differing,
    )


def _mean(values: Sequence[int]) -> float:
    return sum(values) / len(values) if values else 0.0
