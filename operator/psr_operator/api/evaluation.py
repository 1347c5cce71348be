"""ModelEvaluation: accuracy of a model on a problem file."""

from __future__ import annotations

from typing import Literal

from psr_operator.api.common import Resource, Work, WorkStatus
from psr_operator.api.server import ServerChoice
from psr_runtime.config import EvaluationConfig, ModelSource, Prompts, Uri, given, method, operation


class ModelEvaluationSpec(Work):
    """Greedy, zero-shot accuracy. Paper section 12."""

    model: ModelSource = method(description="The model.")
    problems: Uri = given(description="Problem file with answers (JSON lines: problem, answer).")
    prompts: Prompts = method(Prompts(), description="The solver prompt.")
    evaluation: EvaluationConfig = method(EvaluationConfig(), description="Decoding and grading.")
    server: ServerChoice = operation(description="Server of the model.")


class ModelEvaluation(Resource):
    """Model → accuracy and predictions."""

    kind: Literal["ModelEvaluation"] = "ModelEvaluation"
    spec: ModelEvaluationSpec
    status: WorkStatus = WorkStatus()
