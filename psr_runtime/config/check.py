"""The stage `check`: what a run declares, so that it can be looked at before anything takes a GPU.

Every field is an operation: a check decides no result, and its digest holds nothing.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from psr_runtime.config.evaluation import EvaluationConfig
from psr_runtime.config.fields import Name, Schema, Uri, operation
from psr_runtime.config.model import ModelSource, Prompts
from psr_runtime.config.search import JudgeConfig, Questions, SearchConfig
from psr_runtime.config.serving import EngineConfig
from psr_runtime.config.storage import StageConfig
from psr_runtime.config.training import SFTConfig, StepDPOConfig

FieldName = Annotated[str, StringConstraints(max_length=128)]


class CheckedEvaluation(Schema):
    """An evaluation that is to come."""

    name: Name = operation(description="Name of the evaluation.")
    problems: Uri = operation(description="Problem file with answers.")
    evaluation: EvaluationConfig = operation(EvaluationConfig(), description="Decoding and grading.")


class Hardware(Schema):
    """What the pods or processes to come ask for."""

    server_gpus: int = operation(0, ge=0, le=64, description="GPUs of each replica of the server.")
    replicas: int = operation(1, ge=1, le=64, description="Replicas of the server.")
    training_gpus: int = operation(0, ge=0, le=64, description="GPUs of each training pod.")
    training_nodes: int = operation(1, ge=1, le=64, description="Pods of one training.")


class CheckStage(StageConfig):
    """`check`: whether what is declared can be carried out. Output: the findings and an estimate of the effort."""

    model: ModelSource | None = operation(None, description="The model to start from.")
    problems: Uri | None = operation(None, description="Problem file of the searches.")
    ift: Uri | None = operation(None, description="IFT records.")
    eft: Uri | None = operation(None, description="EFT records.")
    pairs: Uri | None = operation(None, description="Pair set to train on.")
    prompts: Prompts = operation(Prompts(), description="Prompts of both skills.")
    sft: SFTConfig | None = operation(None, description="Fine-tuning; unset: there is none.")
    rounds: Annotated[list[Questions], Field(max_length=64)] = operation(
        [], description="The window of problems of each search."
    )
    search: SearchConfig | None = operation(None, description="Step search; unset: there is none.")
    judge: JudgeConfig | None = operation(None, description="Self-judging.")
    training: StepDPOConfig | None = operation(None, description="Step-wise DPO; unset: there is none.")
    evaluations: Annotated[list[CheckedEvaluation], Field(max_length=16)] = operation(
        [], description="Evaluations of every model."
    )
    engine: EngineConfig | None = operation(None, description="The server; unset: there is none, or it is another's.")
    hardware: Hardware = operation(Hardware(), description="What is asked for.")
    retention: Literal["All", "Last", "Best"] = operation("All", description="Models that keep their weights.")
    seed: int = operation(0, ge=0, lt=2**31, description="Seed of the run.")
    names: Annotated[dict[FieldName, FieldName], Field(max_length=32)] = operation(
        {}, description="What a field of a run is called in this manifest, for messages, where that differs."
    )
