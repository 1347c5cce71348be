"""Layouts: how preference pairs become token sequences, and log-probabilities of steps from them.

A manifest names one as `training.layout`; a package brings others by an entry point in the group `psr.layouts`. What a
name stands for is called with the pairs, the place that they were read from and a `Limit`, and gives a `Layout`. Every
layout gives the same log-probabilities up to rounding; it may save tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from torch import Tensor

from psr_runtime.config import StepDPOConfig
from psr_runtime.config.plugins import Registry
from psr_runtime.data.records import Pair
from psr_runtime.training.data import Limit


class Layout(Protocol):
    """A pair set laid out. Pairs are known by their index in it."""

    @property
    def lengths(self) -> Sequence[int]:
        """Tokens of the longest sequence of each pair: pairs of one length share a micro-batch."""

    @property
    def tokens(self) -> int:
        """Tokens of all sequences, as often as one pass over the pairs computes them."""

    def logprobs(self, model: Any, records: Sequence[int], precision: str) -> tuple[Tensor, Tensor]:
        """log π(chosen) and log π(rejected) of some pairs (paper eq. 6), with gradient.

        Args:
            model: a causal language model of transformers, on its device.
            records: indices of the pairs of a micro-batch.
            precision: `bfloat16` (autocast) or `float32`.

        Returns:
            Two float32 tensors of shape (records,), in nats: sums over the step's tokens, not divided by their number.
        """


LAYOUTS: Registry[Callable[[Sequence[Pair], str, Limit], Layout]] = Registry.of(
    StepDPOConfig, "layout", "training.layout"
)
"""Every layout by its name in a manifest."""
