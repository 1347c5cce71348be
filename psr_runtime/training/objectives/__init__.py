"""Objectives: what a training trains on, what it lowers, and what is said at its end.

Each belongs to a stage: `sft.py` and `step_dpo.py`. Where weights come from, the loop and the checkpoint are the same
for both and stand in `stage.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from psr_runtime.config.results import TrainingResult
from psr_runtime.prompts.tokens import Tokenizer
from psr_runtime.training.data import Limit
from psr_runtime.training.updates import Updates


@dataclass(frozen=True)
class Policy:
    """The model that is trained, as it was before.

    Attributes:
        folder: Hugging Face folder of its float32 weights.
        limit: bounds of a sequence that it can be trained on.
    """

    folder: Path
    tokenizer: Tokenizer
    limit: Limit


class Objective(Protocol):
    """Records and a loss. Records are known by their index.

    Attributes:
        lengths: tokens of each record.
        counts: share of each record in what the summed loss of a global batch is divided by.
        groups: sizes of parts of the records that follow each other in every epoch, None for one part.
        tokens: tokens of one pass over all records.
        eos_ids: tokens that end a turn from now on, None to keep what the model says.
        frame: what the rendering of the prompts depended on (`ChatTemplate.frame`), None where nobody knows.
    """

    lengths: Sequence[int]
    counts: Sequence[int]
    groups: Sequence[int] | None
    tokens: int
    eos_ids: Sequence[int] | None
    frame: Mapping[str, Any] | None

    def begin(self, model: Any, updates: Updates) -> None:
        """What has to be known before the first update. Called again when a training goes on."""

    def loss(self, model: Any, records: Sequence[int]) -> Tensor:
        """The summed loss of a micro-batch: a scalar with gradient."""

    def end(self, model: Any, updates: Updates) -> None:
        """What has to be known after the last update, before the weights are rounded."""

    def probes(self) -> list[list[int]]:
        """Token ids of sequences by which the new model may be told from the old one; called after `end`."""

    def result(self, shared: TrainingResult) -> TrainingResult:
        """What every training says, and what this one adds; called after `end`."""
