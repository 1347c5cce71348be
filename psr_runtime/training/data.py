"""What is trained on, as token sequences: a prompt without loss and a response with it.

SFT: the prompt is a rendered chat up to the assistant's turn, the response is the solution or the judgement and the
token that ends the turn; the template's newline after that token is not trained on. Step-DPO: prompt and response
are the ids of a pair exactly as they were sampled; nothing is tokenised again and nothing is added to them. Preferences
that people bring as text are tokenised once, at the door (`psr_runtime.data.tokenised`).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from psr_runtime.config import SFTStage, StepDPOStage
from psr_runtime.data.reading import read_pairs, read_records
from psr_runtime.data.records import EFTRecord, IFTRecord, Pair
from psr_runtime.data.tokenised import PairEncoder
from psr_runtime.prompts.templates import Templates
from psr_runtime.prompts.tokens import Tokenizer
from psr_runtime.protocol.errors import DataError
from psr_runtime.storage import Storage


@dataclass(frozen=True)
class Sample:
    """One sequence of token ids.

    Attributes:
        prompt: ids without loss, at least one.
        response: ids with loss, at least one.
    """

    prompt: list[int]
    response: list[int]

    @property
    def ids(self) -> list[int]:
        return self.prompt + self.response

    def __len__(self) -> int:
        return len(self.prompt) + len(self.response)


@dataclass(frozen=True)
class Limit:
    """Bounds of a sequence: `length` tokens (by whatever `name` says), ids below `vocabulary`."""

    length: int
    name: str
    vocabulary: int

    @classmethod
    def of(cls, max_length: int, context: int | None, vocabulary: int) -> Limit:
        """The tighter one of `training.maxLength` and the model's own context."""
        if context is not None and context < max_length:
            return cls(context, "the model's context", vocabulary)
        return cls(max_length, "training.maxLength", vocabulary)

    def check(self, sample: Sample, source: str, number: int) -> None:
        """Raise `DataError` for a sequence that is empty, too long or outside the vocabulary."""
        where = f"{source}, record {number}"
        if not sample.prompt or not sample.response:
            raise DataError(f"{where}: prompt has {len(sample.prompt)} tokens, response {len(sample.response)}; need 1")
        if len(sample) > self.length:
            raise DataError(
                f"{where}: {len(sample)} tokens (prompt {len(sample.prompt)}, response {len(sample.response)}), "
                f"more than {self.name} of {self.length}; leave the record out or raise the limit"
            )
        ids = sample.ids
        if min(ids) < 0 or max(ids) >= self.vocabulary:
            foreign = min(ids) if min(ids) < 0 else max(ids)
            raise DataError(f"{where}: token id {foreign} where the model has {self.vocabulary} rows of embeddings")


def sft_samples(
    storage: Storage, config: SFTStage, tokenizer: Tokenizer, limit: Limit
) -> tuple[list[Sample], list[Sample]]:
    """IFT and EFT records of a configuration as samples (paper §3.2).

    Raises:
        InputMissing: no such file.
        DataError: a broken line, or a sequence that is too long; file, record and lengths are named.
    """
    templates = Templates.of(config.prompts)
    ift: list[Sample] = []
    eft: list[Sample] = []
    if config.ift is not None:
        solutions = read_records(storage, config.ift, IFTRecord)
        prompts = tokenizer.prompts_ids([templates.solve_messages(record.problem) for record in solutions])
        ift = _samples(prompts, [solution_text(record.steps) for record in solutions], tokenizer, limit, config.ift)
    if config.eft is not None:
        judgements = read_records(storage, config.eft, EFTRecord)
        prompts = tokenizer.prompts_ids(
            [templates.judge_messages(record.problem, record.steps, record.a, record.b) for record in judgements]
        )
        eft = _samples(prompts, [record.judgement for record in judgements], tokenizer, limit, config.eft)
    return ift, eft


def policy_pairs(storage: Storage, config: StepDPOStage, tokenizer: Tokenizer) -> list[Pair]:
    """The pair set of a configuration. Preferences that are text become pairs of the policy's tokenizer here.

    Raises:
        InputMissing: no such set.
        DataError: a broken line, or pairs made with another tokenizer than the policy's.
    """
    encoder = PairEncoder(tokenizer, Templates.of(config.prompts))
    brought = enumerate(read_pairs(storage, config.pairs), 1)
    pairs = [item if isinstance(item, Pair) else encoder.pair(item, number) for number, item in brought]
    for line in encoder.said():
        print(f"step-dpo: {config.pairs}: {line}", file=sys.stderr)
    for number, pair in enumerate(pairs, 1):
        if pair.tokenizer_digest != tokenizer.digest:
            raise DataError(
                f"{config.pairs}, record {number}: made with tokenizer {pair.tokenizer_digest}, the policy has "
                f"{tokenizer.digest}; train the model that the pairs were sampled from"
            )
    return pairs


def prompt_of(pair: Pair) -> list[int]:
    """What both steps of a pair follow: `prompt_ids` and all of `path_ids`."""
    return pair.prompt_ids + [token for step in pair.path_ids for token in step]


def solution_text(steps: Sequence[str]) -> str:
    """A solution as it is trained on: every step but the last ends in one newline."""
    return "\n".join(step.rstrip() for step in steps)


def _samples(
    prompts: list[list[int]], responses: list[str], tokenizer: Tokenizer, limit: Limit, source: str
) -> list[Sample]:
    samples = []
    for number, (prompt, response) in enumerate(zip(prompts, tokenizer.texts_ids(responses), strict=True), 1):
        sample = Sample(prompt, [*response, tokenizer.eos_id])
        limit.check(sample, source, number)
        samples.append(sample)
    return samples
