"""SFTJob: one training Workload, M0 → M1."""

from __future__ import annotations

from datetime import datetime

from psr_operator.api import SFTJob
from psr_operator.planner.training import plan_training
from psr_operator.planner.types import Observed, Plan
from psr_operator.planner.work import method_fields, stage_fields
from psr_runtime.config import SFTMethod, SFTStage


def plan_sft(job: SFTJob, observed: Observed, now: datetime) -> Plan:
    """The plan of an SFTJob."""
    return plan_training(job, "sft", SFTStage(**stage_fields(job), **method_fields(job, SFTMethod)), observed, now)
