"""In which order records are trained on: epochs, global batches of exactly N, micro-batches.

Pure: the same lengths and seed give the same updates, so that an interrupted training goes on with the same batches.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypedDict


class Update(TypedDict):
    """One optimizer update.

    Attributes:
        micro: record indices of each micro-batch.
        count: what the summed loss of the global batch is divided by.
    """

    micro: list[list[int]]
    count: int


class Updates(Sequence[Update]):
    """All updates of a training, in order.

    An epoch is one seeded shuffle of all records, cut into global batches of exactly `global_batch`; the rest makes a
    smaller last batch. Inside a global batch records are sorted by length before they are cut into micro-batches:
    that saves padding and changes nothing, since the loss is a sum over the global batch over a count of the same.

    Args:
        lengths: tokens of each record.
        counts: share of each record in an update's count (response tokens for SFT, 1 for a pair).
        groups: sizes of consecutive parts of the records that are shuffled within themselves and follow each other
            in every epoch. Unset: one part.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        counts: Sequence[int],
        *,
        epochs: int,
        global_batch: int,
        micro_batch: int,
        seed: int,
        groups: Sequence[int] | None = None,
    ) -> None:
        self._lengths = lengths
        self._counts = counts
        self._micro_batch = micro_batch
        self._batches: list[list[int]] = []
        for epoch in range(epochs):
            order = _epoch_order(groups or [len(lengths)], seed, epoch)
            self._batches += [order[at : at + global_batch] for at in range(0, len(order), global_batch)]
        self.first_epoch = len(self._batches) // epochs
        """Updates of the first epoch; they hold every record once."""

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, number: int) -> Update:  # type: ignore[override]  # no slices
        batch = sorted(self._batches[number], key=lambda record: (-self._lengths[record], record))
        micro = [batch[at : at + self._micro_batch] for at in range(0, len(batch), self._micro_batch)]
        return Update(micro=micro, count=sum(self._counts[record] for record in batch))


def _epoch_order(groups: Sequence[int], seed: int, epoch: int) -> list[int]:
    # A text as seed is hashed, so neighbouring seeds and epochs are unrelated.
    generator = random.Random(f"order of records, seed {seed}, epoch {epoch}")
    order: list[int] = []
    for size in groups:
        part = list(range(len(order), len(order) + size))
        generator.shuffle(part)
        order += part
    return order
