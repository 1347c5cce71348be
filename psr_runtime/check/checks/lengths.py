"""Lengths in tokens, by percentiles, against the model's context and the limits of the manifest.

A sample of each data set is tokenised, and besides it the records with the most characters, so that one record that is
too long is seen wherever it stands.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from psr_runtime.check.findings import Finding, error, fact, warning
from psr_runtime.check.subject import DataSet, Lengths, Subject
from psr_runtime.protocol.errors import ConfigurationError, DataError

CHECK = "lengths"


def percentile(values: Sequence[int], share: float) -> int:
    """The smallest of the values that at least this share of them does not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def server_context_fits_the_model(subject: Subject) -> Iterator[Finding]:
    """The server's context is none that the model cannot have."""
    engine, length = subject.config.engine, subject.model_context
    if engine is None or engine.max_model_len is None or length is None or engine.max_model_len <= length:
        return
    message = f"{engine.max_model_len} tokens, and the model's own context is {length}; the server would not start"
    yield error(CHECK, subject.field("server.engine.maxModelLen"), message, f"set at most {length}", ConfigurationError)


def records_fit_the_training(subject: Subject) -> Iterator[Finding]:
    """No record is longer than its training takes."""
    config = subject.config
    for role, training, name in (
        ("ift", config.sft, "sft.training.maxLength"),
        ("eft", config.sft, "sft.training.maxLength"),
        ("pairs", config.training, "training.maxLength"),
    ):
        item, lengths = subject.of(role), subject.lengths.get(role)
        if item is None or lengths is None or training is None:
            continue
        yield fact(CHECK, item.field, f"prompt and response: {_spread(lengths)}")
        limit, by = training.max_length, subject.field(name)
        if subject.model_context is not None and subject.model_context < limit:
            limit, by = subject.model_context, "the model's context"
        too_long = [number for number, size in zip(lengths.numbers, lengths.sums, strict=True) if size > limit]
        if too_long:
            message = (
                f"{item.uri}, record {min(too_long)}: {max(lengths.sums)} tokens in the longest record, more than "
                f"{by} of {limit} ({len(too_long)} of {len(lengths.numbers)} measured ones are longer)"
            )
            yield error(CHECK, item.field, message, "leave these records out, or raise the limit", DataError)


def prompts_fit_the_context(subject: Subject) -> Iterator[Finding]:
    """Every prompt leaves room for an answer in the server's context."""
    context = subject.context
    for item in subject.data_sets:
        lengths = subject.lengths.get(item.name)
        if lengths is None or item.role not in ("problems", "evaluation"):
            continue
        yield fact(CHECK, item.field, f"prompts: {_spread(lengths)}")
        if context is None:
            continue
        too_long = [number for number, size in zip(lengths.numbers, lengths.sums, strict=True) if size >= context]
        if too_long:
            message = (
                f"{item.uri}, record {min(too_long)}: a prompt of {max(lengths.sums)} tokens, and the context has "
                f"{context}, so no answer fits"
            )
            todo = f"shorten or remove it, or raise {subject.field('server.engine.maxModelLen')}"
            yield error(CHECK, item.field, message, todo, DataError)


def limits_fit_the_data(subject: Subject) -> Iterator[Finding]:
    """Steps, judgements and solutions like those of the data fit the limits of search, judge and training."""
    config, ift, eft = subject.config, subject.of("ift"), subject.of("eft")
    solutions, judgements = subject.lengths.get("ift"), subject.lengths.get("eft")
    if config.search is not None and ift is not None:
        steps = step_tokens(subject, ift)
        yield from _limit(subject, "search.maxStepTokens", config.search.max_step_tokens, steps, "steps of IFT")
    if config.judge is not None and eft is not None and judgements is not None:
        sizes = [response for _, response in judgements.even]
        yield from _limit(subject, "judge.maxTokens", config.judge.max_tokens, sizes, "judgements of EFT")
        room = subject.context
        if room is not None:
            whole = [sum(pair) for pair in judgements.even]
            yield from _limit(subject, "server.engine.maxModelLen", room, whole, "judge prompts with judgements")
    if config.training is not None and solutions is not None and config.search is not None:
        sizes = [sum(pair) for pair in solutions.even]
        yield from _limit(subject, "training.maxLength", config.training.max_length, sizes, "solutions of IFT")


def step_tokens(subject: Subject, ift: DataSet) -> list[int]:
    """Tokens of each step of the sampled IFT records, header and newline included."""
    tokenizer, records, lengths = subject.tokenizer.value, ift.records.value or [], subject.lengths.get("ift")
    if tokenizer is None or lengths is None:
        return []
    sampled = [records[number - 1] for number in lengths.numbers[: len(lengths.even)]]
    return [len(tokenizer.encode(step.rstrip() + "\n")) for record in sampled for step in record.steps]


def _limit(subject: Subject, name: str, limit: int, sizes: Sequence[int], what: str) -> Iterator[Finding]:
    """A limit that half of the data exceeds cannot work; one that a twentieth exceeds costs that twentieth."""
    if not sizes:
        return
    spread = f"{what} have p50 {percentile(sizes, 0.5)}, p95 {percentile(sizes, 0.95)}, max {max(sizes)} tokens"
    field = subject.field(name)
    if percentile(sizes, 0.5) > limit:
        yield error(CHECK, field, f"{limit} tokens, yet {spread}", "raise it", ConfigurationError)
    elif percentile(sizes, 0.95) > limit:
        yield warning(CHECK, field, f"{limit} tokens, yet {spread}", "raise it, or what is longer is lost")
    else:
        yield fact(CHECK, field, f"{limit} tokens; {spread}")


def _spread(lengths: Lengths) -> str:
    sizes = [sum(pair) for pair in lengths.even]
    measured = f"{len(lengths.numbers)} of {lengths.count}" if lengths.count > len(lengths.numbers) else "all"
    return (
        f"p50 {percentile(sizes, 0.5)}, p95 {percentile(sizes, 0.95)}, max {max(lengths.sums)} tokens "
        f"({measured} measured)"
    )
