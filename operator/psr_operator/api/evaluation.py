"""ModelEvaluation: accuracy of a model on a problem file."""

from __future__ import annotations

from typing import ClassVar, Literal

from psr_operator.api.common import Resource, Work, WorkStatus
from psr_operator.api.server import ServerChoice
from psr_runtime.config import EvaluateMethod, operation


class ModelEvaluationSpec(EvaluateMethod, Work):
    """Greedy, zero-shot accuracy. Paper §4."""

    server: ServerChoice = operation(description="Server of the model.")


class ModelEvaluation(Resource):
    """Model → accuracy and predictions."""

    plural: ClassVar = "modelevaluations"
    short_name: ClassVar = "meval"
    stages: ClassVar = ("evaluate",)

    kind: Literal["ModelEvaluation"] = "ModelEvaluation"
    spec: ModelEvaluationSpec
    status: WorkStatus = WorkStatus()
