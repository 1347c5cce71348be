"""Results of finished tasks: raw as a status holds them, and as the types of their stages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from psr_runtime.config.results import EvaluateResult, PairSetResult, TrainingResult

Results = Mapping[str, dict[str, Any]]
"""The results of the stages of the finished tasks, by task."""

TRAIN, SEARCH, MERGE, EVALUATE = "train", "search", "merge", "evaluate"


def training_result(done: Results) -> TrainingResult:
    """The result of a finished training."""
    return TrainingResult.model_validate(done[TRAIN])


def pair_set_result(done: Results) -> PairSetResult | None:
    """The result of a generation; None while its shards are not merged."""
    return PairSetResult.model_validate(done[MERGE]) if MERGE in done else None


def evaluate_result(done: Results) -> EvaluateResult:
    """The result of a finished evaluation."""
    return EvaluateResult.model_validate(done[EVALUATE])
