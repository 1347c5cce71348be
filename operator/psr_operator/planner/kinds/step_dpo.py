"""StepDPOJob: one training Workload, M(i) → M(i+1)."""

from __future__ import annotations

from datetime import datetime

from psr_operator.api import StepDPOJob
from psr_operator.planner.training import plan_training
from psr_operator.planner.types import Observed, Plan
from psr_operator.planner.work import method_fields, stage_fields
from psr_runtime.config import StepDPOMethod, StepDPOStage


def plan_step_dpo(job: StepDPOJob, observed: Observed, now: datetime) -> Plan:
    """The plan of a StepDPOJob."""
    configuration = StepDPOStage(**stage_fields(job), **method_fields(job, StepDPOMethod))
    return plan_training(job, "step-dpo", configuration, observed, now)
