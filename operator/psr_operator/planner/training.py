"""What the kinds that train share: one Workload, once nobody else holds the GPUs."""

from __future__ import annotations

from datetime import datetime

from psr_operator.api import SFTJob, StepDPOJob
from psr_operator.api.common import TrainingResources
from psr_operator.conditions import State, Summary
from psr_operator.planner import gpus
from psr_operator.planner.lifecycle import Task
from psr_operator.planner.placement import placement_of_work
from psr_operator.planner.results import TRAIN, Results, training_result
from psr_operator.planner.types import Observed, Plan
from psr_operator.planner.work import plan_work
from psr_operator.reasons import Reason
from psr_runtime.config import StageConfig


def plan_training(
    job: SFTJob | StepDPOJob, stage: str, configuration: StageConfig, observed: Observed, now: datetime
) -> Plan:
    """The plan of a training job.

    Args:
        stage: that trains.
    """
    spec = job.spec
    waits = _too_large(spec.resources) or gpus.until_released(observed, spec.after_release, spec.resources.gpus)
    task = Task(TRAIN, stage, lambda _: (configuration,), Reason.TRAINING, placement_of_work(job), waits)
    return plan_work(job, [task], _summary, observed, now)


def _summary(done: Results) -> str:
    return f"checkpoint after {training_result(done).updates} updates"


def _too_large(resources: TrainingResources) -> Summary | None:
    """Training uses one device of one node; what asks for more would hold GPUs that stay idle."""
    if resources.nodes == 1 and resources.gpus <= 1:
        return None
    message = (
        f"training on {resources.nodes} nodes × {resources.gpus} GPUs is not built yet; set nodes to 1 and gpus to 1, "
        "or train elsewhere and give the checkpoint as model"
    )
    return Summary(State.FAILED, Reason.NOT_SUPPORTED, message)
