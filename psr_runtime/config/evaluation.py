"""Evaluation (paper §4): the stage `evaluate`."""

from __future__ import annotations

from psr_runtime.config.fields import MANY, PluginName, Schema, Uri, input_uri, method, operation, plugin
from psr_runtime.config.model import ModelSource, Prompts
from psr_runtime.config.serving import Endpoint
from psr_runtime.config.storage import StageConfig


class EvaluationConfig(Schema):
    """Greedy, zero-shot accuracy on a problem file. Paper §4."""

    benchmark: PluginName = plugin(
        "Custom",
        group="psr.benchmarks",
        own="psr_runtime.evaluation.benchmarks",
        description="How the problem file is read and what is asked. Custom: problem and answer, asked "
        "by the solver prompt. Packages bring others.",
    )
    grader: PluginName = plugin(
        "MathVerify",
        group="psr.graders",
        own="psr_runtime.evaluation.graders",
        description="Who compares answers. MathVerify: the last box, by that library. Packages bring others.",
    )
    max_tokens: int = method(2048, ge=1, le=32768, description="New tokens per answer. Ours, as Qwen2.5-Math.")
    limit: int | None = method(None, ge=1, le=MANY, description="Only the first problems of the file. Unset: all.")
    grading_seconds: int = operation(10, ge=1, le=600, description="Time limit of grading one answer.")
    concurrency: int = operation(256, ge=1, le=4096, description="Problems answered at the same time.")


class EvaluateMethod(Schema):
    """Greedy, zero-shot accuracy of a model on a problem file. Paper §4."""

    model: ModelSource = method(description="The model.")
    problems: Uri = input_uri(description="Problems with answers, in any form of docs/data.md (problem, answer).")
    prompts: Prompts = method(Prompts(), description="The solver prompt.")
    evaluation: EvaluationConfig = method(EvaluationConfig(), description="Decoding and grading.")


class EvaluateStage(EvaluateMethod, StageConfig):
    """`evaluate`: accuracy, predictions kept."""

    server: Endpoint = operation(description="Server of the model.")
