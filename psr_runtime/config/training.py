"""Training (paper §3.2, §3.4): the stages `sft` and `step-dpo`."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from psr_runtime.config.fields import MANY, PluginName, Schema, Uri, input_uri, method, operation, plugin
from psr_runtime.config.model import ModelSource, Prompts
from psr_runtime.config.storage import StageConfig


class OptimizerConfig(Schema):
    """AdamW with clipping and a schedule. The paper gives learning rate, batch and epochs (§4); the rest is ours."""

    beta1: float = method(0.9, ge=0, lt=1, description="AdamW beta 1. Ours.")
    beta2: float = method(0.999, ge=0, lt=1, description="AdamW beta 2. Ours.")
    weight_decay: float = method(0.0, ge=0, le=1, description="AdamW weight decay. Ours.")
    max_grad_norm: float = method(1.0, gt=0, le=1000, description="Clip the global gradient norm to this. Ours.")
    schedule: Literal["Cosine", "Linear", "Constant"] = method(
        "Cosine", description="Shape of the learning rate after warm-up, down to zero. Ours."
    )
    warmup_ratio: float = method(0.03, ge=0, le=1, description="Share of updates that warm up. Ours.")


class TrainingConfig(Schema):
    """What SFT and step-DPO share."""

    strategy: PluginName = plugin(
        "Single",
        group="psr.training",
        own="psr_runtime.training.strategies",
        description="How processes share the work. Single: one process on one device. Packages bring others.",
    )
    optimizer: OptimizerConfig = method(OptimizerConfig(), description="Optimizer and schedule.")
    max_length: int = method(4096, ge=8, le=1_048_576, description="Tokens of one sequence. Longer: error. Ours.")
    precision: Literal["bfloat16", "float32"] = method(
        "bfloat16", description="Autocast dtype. Master weights are float32 always. Ours."
    )
    checkpoint_dtype: Literal["bfloat16", "float32"] = method(
        "bfloat16", description="Dtype of the serving copy; the master copy is float32. Ours."
    )
    micro_batch: int = operation(8, ge=1, le=4096, description="Sequences (SFT) or pairs (DPO) in one pass.")
    save_steps: int = operation(
        100,
        ge=1,
        le=MANY,
        description="Updates between resumable states; an interrupted job goes on from the last one.",
    )


class SFTConfig(TrainingConfig):
    """Supervised fine-tuning M0 -> M1 on IFT and EFT records. Paper §3.2, §4."""

    epochs: int = method(3, ge=1, le=100, description="Passes over the data. Paper §4.")
    learning_rate: float = method(1e-6, gt=0, le=1, description="Peak learning rate. Paper §4.")
    global_batch: int = method(32, ge=1, le=65536, description="Records per update over all ranks. Paper §4.")
    mixing: Literal["Shuffled", "Sequential"] = method(
        "Shuffled", description="IFT and EFT concatenated and shuffled, or IFT first. Ours."
    )


class StepDPOConfig(TrainingConfig):
    """Step-wise DPO M(i) -> M(i+1). Paper §3.4, eqs. 6-8."""

    layout: PluginName = plugin(
        "Pairs",
        group="psr.layouts",
        own="psr_runtime.training.layouts",
        description="How pairs become token sequences. Pairs: two sequences a pair, each with the whole prompt. "
        "Packages bring others.",
    )
    beta: float = method(0.1, gt=0, le=100, description="Deviation from the reference, eq. 6-7. Ours.")
    nll_weight: float = method(
        0.0, ge=0, le=100, description="Weight of -log pi(chosen)/|chosen|, averaged over pairs. Ours, off."
    )
    epochs: int = method(1, ge=1, le=100, description="Passes over the pairs. Paper §4.")
    learning_rate: float = method(5e-7, gt=0, le=1, description="Peak learning rate. Paper §4.")
    global_batch: int = method(32, ge=1, le=65536, description="Pairs per update over all ranks. Paper §4.")


class SFTMethod(Schema):
    """Fine-tune M0 to M1 on IFT and EFT records. Paper §3.2, §4."""

    model: ModelSource = method(description="The base model, M0.")
    ift: Uri | None = input_uri(
        None, description="IFT records: problems solved in steps, in any form of docs/data.md (problem, steps)."
    )
    eft: Uri | None = input_uri(
        None,
        description="EFT records: judgements of candidate steps, in any form of docs/data.md (problem, steps, a, b, "
        "judgement).",
    )
    prompts: Prompts = method(Prompts(), description="Prompts of both skills.")
    training: SFTConfig = method(SFTConfig(), description="Fine-tuning.")
    seed: int = method(0, ge=0, lt=2**31, description="Seed of initial weights and of the order of records.")

    @model_validator(mode="after")
    def _has_data(self) -> Self:
        if self.ift is None and self.eft is None:
            raise ValueError("give ift, eft or both: there is nothing to train on")
        return self


class SFTStage(SFTMethod, StageConfig):
    """`sft`: M0 -> M1. Output: a checkpoint."""


class StepDPOMethod(Schema):
    """Train M(i) to M(i+1) on preference pairs by step-wise DPO. Paper §3.4."""

    model: ModelSource = method(description="The policy to train, M(i).")
    reference: ModelSource | None = method(None, description="Reference policy. Unset: the policy itself (ours).")
    pairs: Uri = input_uri(
        description="Pair set: an artefact of PreferenceGeneration, or preferences from elsewhere in any form of "
        "docs/data.md. Those that are text are tokenised under the model's chat template."
    )
    prompts: Prompts = method(
        Prompts(),
        later=True,
        description="The solver prompt for problems of preferences that are text. Pairs of a search have theirs. Ours.",
    )
    training: StepDPOConfig = method(StepDPOConfig(), description="Step-wise DPO.")
    seed: int = method(0, ge=0, lt=2**31, description="Seed of the order of pairs.")


class StepDPOStage(StepDPOMethod, StageConfig):
    """`step-dpo`: M(i) -> M(i+1). Output: a checkpoint."""
