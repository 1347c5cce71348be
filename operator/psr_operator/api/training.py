"""SFTJob and StepDPOJob: one checkpoint each, by one training Workload."""

from __future__ import annotations

from typing import ClassVar, Literal

from psr_operator.api.common import Resource, TrainingResources, Work, WorkStatus
from psr_runtime.config import ChildName, SFTMethod, StepDPOMethod, operation


class Training(Work):
    """What training jobs have besides their method."""

    resources: TrainingResources = operation(TrainingResources(), description="Hardware of the training pods.")
    after_release: ChildName | None = operation(
        None, description="Name of a PolicyServer; training starts once it holds no GPUs. Set by the parent."
    )


class SFTJobSpec(SFTMethod, Training):
    """Fine-tune M0 to M1 on IFT and EFT records. Paper §3.2, §4."""


class SFTJob(Resource):
    """M0 → M1."""

    plural: ClassVar = "sftjobs"
    short_name: ClassVar = "sft"
    stages: ClassVar = ("sft",)

    kind: Literal["SFTJob"] = "SFTJob"
    spec: SFTJobSpec
    status: WorkStatus = WorkStatus()


class StepDPOJobSpec(StepDPOMethod, Training):
    """Train M(i) to M(i+1) on preference pairs by step-wise DPO. Paper §3.4."""


class StepDPOJob(Resource):
    """M(i) → M(i+1)."""

    plural: ClassVar = "stepdpojobs"
    short_name: ClassVar = "sdj"
    stages: ClassVar = ("step-dpo",)

    kind: Literal["StepDPOJob"] = "StepDPOJob"
    spec: StepDPOJobSpec
    status: WorkStatus = WorkStatus()
