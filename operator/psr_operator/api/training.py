"""SFTJob and StepDPOJob: one checkpoint each, by one training Workload."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from psr_operator.api.common import Resource, Work, WorkStatus
from psr_runtime.config import ModelSource, Name, Prompts, SFTConfig, StepDPOConfig, Uri, given, method, operation


class SFTJobSpec(Work):
    """Fine-tune M0 to M1 on IFT and EFT records. Paper section 7."""

    model: ModelSource = method(description="The base model, M0.")
    ift: Uri | None = given(None, description="IFT records: problems solved in steps.")
    eft: Uri | None = given(None, description="EFT records: judgements of candidate steps.")
    prompts: Prompts = method(Prompts(), description="Prompts of both skills.")
    training: SFTConfig = method(SFTConfig(), description="Fine-tuning.")
    seed: int = method(0, ge=0, lt=2**31, description="Seed of initial weights and of the order of records.")
    after_release: Name | None = operation(
        None, description="Name of a PolicyServer; training starts once it holds no GPUs. Set by the parent."
    )

    @model_validator(mode="after")
    def _has_data(self) -> SFTJobSpec:
        if self.ift is None and self.eft is None:
            raise ValueError("give ift, eft or both: there is nothing to train on")
        return self


class SFTJob(Resource):
    """M0 → M1."""

    kind: Literal["SFTJob"] = "SFTJob"
    spec: SFTJobSpec
    status: WorkStatus = WorkStatus()


class StepDPOJobSpec(Work):
    """Train M(i) to M(i+1) on preference pairs by step-wise DPO. Paper section 9."""

    model: ModelSource = method(description="The policy to train, M(i).")
    reference: ModelSource | None = method(None, description="Reference policy. Unset: the policy itself (O9).")
    pairs: Uri = given(description="Pair set: an artefact of PreferenceGeneration or a JSON-lines file of pairs.")
    training: StepDPOConfig = method(StepDPOConfig(), description="Step-wise DPO.")
    seed: int = method(0, ge=0, lt=2**31, description="Seed of the order of pairs.")
    after_release: Name | None = operation(
        None, description="Name of a PolicyServer; training starts once it holds no GPUs. Set by the parent."
    )


class StepDPOJob(Resource):
    """M(i) → M(i+1)."""

    kind: Literal["StepDPOJob"] = "StepDPOJob"
    spec: StepDPOJobSpec
    status: WorkStatus = WorkStatus()
