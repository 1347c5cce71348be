"""What the finished tasks of leaves say, by the names of the tasks in their statuses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from psr_runtime.config.results import EvaluateResult, PairSetResult, TrainingResult

Results = Mapping[str, dict[str, Any]]
"""What the stages of the finished tasks said, by task."""

TRAIN, SEARCH, MERGE, EVALUATE = "train", "search", "merge", "evaluate"


def training_result(done: Results) -> TrainingResult:
    """What a finished training says."""
    return TrainingResult.model_validate(done[TRAIN])


def pair_set_result(done: Results) -> PairSetResult | None:
    """What a generation says of its pairs; None while they are not merged."""
    return PairSetResult.model_validate(done[MERGE]) if MERGE in done else None


def evaluate_result(done: Results) -> EvaluateResult:
    """What a finished evaluation says."""
    return EvaluateResult.model_validate(done[EVALUATE])
