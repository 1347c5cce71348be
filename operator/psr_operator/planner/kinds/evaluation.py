"""ModelEvaluation: one Workload that asks a server and grades."""

from __future__ import annotations

from datetime import datetime

from psr_operator.api import ModelEvaluation
from psr_operator.planner.asking import endpoint_of, server_name, with_own_server
from psr_operator.planner.lifecycle import Task
from psr_operator.planner.placement import placement_of_work
from psr_operator.planner.results import EVALUATE, Results, evaluate_result
from psr_operator.planner.types import Observed, Plan
from psr_operator.planner.work import method_fields, plan_work, stage_fields
from psr_operator.reasons import Reason
from psr_runtime.config import EvaluateMethod, EvaluateStage, StageConfig


def plan_evaluation(evaluation: ModelEvaluation, observed: Observed, now: datetime) -> Plan:
    """The plan of a ModelEvaluation."""
    endpoint, waits = endpoint_of(evaluation, observed)

    def configurations(_: Results) -> tuple[StageConfig, ...]:
        method = method_fields(evaluation, EvaluateMethod)
        return (EvaluateStage(**stage_fields(evaluation), **method, server=endpoint),)

    placed = placement_of_work(evaluation)
    task = Task(EVALUATE, "evaluate", configurations, Reason.EVALUATING, placed, waits, server_name(evaluation))
    return with_own_server(evaluation, plan_work(evaluation, [task], _summary, observed, now))


def _summary(done: Results) -> str:
    result = evaluate_result(done)
    return f"accuracy {result.accuracy:.1%} on {result.problems} problems"
