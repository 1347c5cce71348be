"""`training.layout` Pairs: two sequences a pair, each with the whole prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from psr_runtime.data.records import Pair
from psr_runtime.training.data import Limit, Sample, prompt_of
from psr_runtime.training.likelihood import response_logprobs, sums


@dataclass(frozen=True)
class PairSample:
    """A step preference pair: two responses to one prompt (paper §3.4). The prompt holds the steps kept before."""

    chosen: Sample
    rejected: Sample

    def __len__(self) -> int:
        return max(len(self.chosen), len(self.rejected))


class Pairs:
    """See `Layout`.

    Args:
        pairs: ids as sampled; nothing is tokenised again and nothing is added to them.
        source: what to call the pair set in messages.
        limit: of each sequence.

    Attributes:
        samples: the two sequences of each pair.

    Raises:
        DataError: a sequence that is empty, too long or outside the vocabulary.
    """

    def __init__(self, pairs: Sequence[Pair], source: str, limit: Limit) -> None:
        self.samples: list[PairSample] = []
        for number, pair in enumerate(pairs, 1):
            prompt = prompt_of(pair)
            sample = PairSample(Sample(prompt, pair.chosen_ids), Sample(prompt, pair.rejected_ids))
            limit.check(sample.chosen, source, number)
            limit.check(sample.rejected, source, number)
            self.samples.append(sample)

    @property
    def lengths(self) -> list[int]:
        """See `Layout.lengths`."""
        return [len(sample) for sample in self.samples]

    @property
    def tokens(self) -> int:
        """See `Layout.tokens`."""
        return sum(len(sample.chosen) + len(sample.rejected) for sample in self.samples)

    def logprobs(self, model: Any, records: Sequence[int], precision: str) -> tuple[Tensor, Tensor]:
        """See `Layout.logprobs`: all chosen sequences, then all rejected ones, in one pass."""
        samples = [self.samples[record].chosen for record in records]
        samples += [self.samples[record].rejected for record in records]
        chosen, rejected = sums(response_logprobs(model, samples, precision), samples).chunk(2)
        return chosen, rejected
