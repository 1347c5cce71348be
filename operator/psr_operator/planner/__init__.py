"""`plan(object, observed, now) → Plan`: what is wanted next. Pure: no I/O, no clock, no client.

One module a kind where it needs its own thinking; `stage.py` is the life that all kinds with attempts share.
"""

from __future__ import annotations

from datetime import datetime

from psr_operator.api import (
    ModelEvaluation,
    PolicyServer,
    PreferenceGeneration,
    Resource,
    SelfRewardIteration,
    SelfRewardRun,
    SFTJob,
    StepDPOJob,
)
from psr_operator.planner.iteration import plan_iteration
from psr_operator.planner.leaves import plan_evaluation, plan_generation, plan_sft, plan_step_dpo
from psr_operator.planner.run import plan_run
from psr_operator.planner.server import plan_server
from psr_operator.planner.types import Observed, Plan


def plan(resource: Resource, observed: Observed, now: datetime) -> Plan:
    """What is wanted for one object.

    Args:
        resource: the object with its stored status.
        observed: what it owns and names.
        now: aware time.
    """
    match resource:
        case SelfRewardRun():
            return plan_run(resource, observed, now)
        case SelfRewardIteration():
            return plan_iteration(resource, observed, now)
        case PreferenceGeneration():
            return plan_generation(resource, observed, now)
        case SFTJob():
            return plan_sft(resource, observed, now)
        case StepDPOJob():
            return plan_step_dpo(resource, observed, now)
        case ModelEvaluation():
            return plan_evaluation(resource, observed, now)
        case PolicyServer():
            return plan_server(resource, observed, now)
    raise TypeError(f"{resource.kind}: no planner for this kind")


__all__ = ["plan"]
