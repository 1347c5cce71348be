"""What each stage says at its end: the numbers in a manifest, a termination message and a status.

A result is read leniently: an older stage left out what it did not know, a newer one says more.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class StageResult(BaseModel):
    """Base of all results. Every field has a default, so that a rehearsal has results too."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    def to_json(self) -> dict[str, Any]:
        return self.model_dump(mode="json")


class TrainingResult(StageResult):
    """What SFT and step-DPO share.

    Attributes:
        tokens: trained on, over all epochs.
        changed_bf16_weights: how many weights differ from the parent's in bfloat16; None without a parent.
    """

    updates: int = 0
    tokens: int = 0
    loss_first: float = 0.0
    loss_last: float = 0.0
    changed_bf16_weights: int | None = None


class SFTResult(TrainingResult):
    """`sft`: records by kind and tokens with loss."""

    records: int = 0
    ift: int = 0
    eft: int = 0
    response_tokens: int = 0


class StepDPOResult(TrainingResult):
    """`step-dpo`: what the training did to the preferences. Log-probabilities in nats."""

    pairs: int = 0
    scored_tokens: int = 0
    preference_accuracy: float = 0.0
    mean_margin: float = 0.0
    chosen_logprob_change: float = 0.0
    rejected_logprob_change: float = 0.0
    mean_chosen_tokens: float = 0.0
    mean_rejected_tokens: float = 0.0


class PairSetResult(StageResult):
    """`search` and `merge`: counts of a pair set. Nothing in them varies between equal runs."""

    problems: int = 0
    pairs: int = 0
    levels: int = 0
    candidates: int = 0
    malformed: int = 0
    truncated: int = 0
    verdicts: int = 0
    no_verdict: int = 0
    share_a: float | None = None
    agreement: float | None = None
    unanimous: int = 0
    rollbacks: int = 0
    candidate_tokens: int = 0
    judge_tokens: int = 0
    outcomes: dict[str, int] = {}


class EvaluateResult(StageResult):
    """`evaluate`: accuracy from 0 to 1, and counts of what was not answered or not compared."""

    accuracy: float = 0.0
    correct: int = 0
    problems: int = 0
    tokens: int = 0
    mean_steps: float = 0.0
    mean_step_tokens: float = 0.0
    truncated: int = 0
    no_answer: int = 0
    empty_gold: int = 0
    grading_failed: int = 0


class ReportResult(StageResult):
    """`report`: URIs of both files, and the accuracy of each model."""

    report: str = ""
    results: str = ""
    accuracy: dict[str, float | None] = {}


class PruneResult(StageResult):
    """`prune`: what was removed."""

    files: int = 0
    bytes: int = 0


class CheckResult(StageResult):
    """`check`: how much it looked at, and what the work to come is estimated to take.

    Attributes:
        tokens: sampled and trained ones of all stages together.
    """

    warnings: int = 0
    facts: int = 0
    tokens: int = 0
