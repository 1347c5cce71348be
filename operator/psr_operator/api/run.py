"""SelfRewardRun: the whole loop, M0 → M1 → … → Mn, evaluated and reported."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints, model_validator

from psr_operator.api.common import Failure, Label, Resource, StorageSpec, WorkStatus
from psr_operator.api.iteration import Loop
from psr_operator.api.keyed import Keyed
from psr_operator.api.server import ServerTemplate
from psr_runtime.config import EvaluationConfig, Name, Schema, SFTConfig, Text, Uri, input_uri, method, operation


class RunSFT(Schema):
    """How M1 is made from the model."""

    ift: Uri | None = input_uri(None, description="IFT records: problems solved in steps.")
    eft: Uri | None = input_uri(None, description="EFT records: judgements of candidate steps.")
    training: SFTConfig = method(SFTConfig(), description="Fine-tuning.")

    @model_validator(mode="after")
    def _has_data(self) -> RunSFT:
        if self.ift is None and self.eft is None:
            raise ValueError("give ift, eft or both: there is nothing to train on")
        return self


class Round(Schema):
    """One iteration of a run."""

    questions: int = method(ge=1, le=1_000_000, description="Problems of this round. Paper §4: 400, 800, 1,200.")
    allow_reuse: bool = method(False, description="Wrap around when the file has too few problems.")


class RunEvaluation(Schema):
    """An evaluation of every model of a run."""

    name: Name = method(description="Name of the evaluation.")
    problems: Uri = input_uri(description="Problems with answers, in any form of docs/data.md (problem, answer).")
    evaluation: EvaluationConfig = method(EvaluationConfig(), description="Decoding and grading.")
    required: bool = operation(False, description="Whether the run is Stalled when this evaluation is.")


class RunStorage(StorageSpec):
    """Where the artefacts of a run go, and which weights stay there."""

    retention: Literal["All", "Last", "Best"] = operation(
        "All",
        description="Models that keep their weights. All: every one. Last: the newest; an earlier model's are removed "
        "once nobody reads them any more. Best: also those of the best one, by accuracy on the first required "
        "evaluation, else on the first. What is not weights stays; a model that the run did not make is never touched.",
    )


class RunReport(Schema):
    """What the report says besides the numbers."""

    title: Annotated[str, StringConstraints(max_length=200)] | None = method(None, description="Heading.")
    note: Text | None = method(None, description="A paragraph on top.")
    step_oracle: Literal["None", "Arithmetic"] = method(
        "None", description="Oracle that judges the judge on the policy's own candidates, after the fact."
    )


class SelfRewardRunSpec(Loop):
    """A model learns from its own judgement, round by round. Paper §3.5."""

    sft: RunSFT | None = method(
        None, description="How M1 is made from `model` (then M0). Unset: `model` is M1 already."
    )
    iterations: Annotated[list[Round], Field(min_length=1, max_length=64)] = method(
        description="The rounds; append-only, so that M5 is one more entry."
    )
    evaluations: Annotated[list[RunEvaluation], Field(max_length=16), Keyed("name")] = method(
        [], description="Evaluations of M1 and every later model."
    )
    report: RunReport = method(RunReport(), description="The report.")
    server: ServerTemplate = operation(ServerTemplate(), description="The run's one PolicyServer.")
    storage: RunStorage = method(description="Where artefacts go, and which weights stay.")

    @model_validator(mode="after")
    def _best_is_measured(self) -> SelfRewardRunSpec:
        if self.storage.retention == "Best" and not self.evaluations:
            raise ValueError("storage.retention: Best needs an evaluation that tells which model is the best; give one")
        return self


class ModelStatus(Schema):
    """One model of a run."""

    name: Label = Field(description="M1, M2, …")
    uri: Uri = Field(description="URI of the checkpoint.")
    digest: Label | None = Field(None, description="Digest of the checkpoint.")
    pairs: Uri | None = Field(None, description="URI of the pair set that this model generated.")
    pair_count: int | None = Field(None, description="Pairs in it.")
    accuracy: dict[Label, float] = Field(default={}, max_length=16, description="Accuracy by evaluation.")
    weights: Literal["Kept", "Pruning", "Pruned"] = Field(
        "Kept", description="Whether its weights are there. Pruning: their removal was begun."
    )


class SelfRewardRunStatus(WorkStatus):
    """What a run has made so far. `done.report` holds the report's result."""

    models: Annotated[list[ModelStatus], Keyed("name")] = Field(
        default=[], max_length=66, description="M1, M2, … as far as they are made."
    )
    unpruned: dict[Label, Failure] = Field(
        default={}, max_length=66, description="Why weights that retention lets go are there, by model."
    )


class SelfRewardRun(Resource):
    """M0 → M1 → … → Mn."""

    plural: ClassVar = "selfrewardruns"
    short_name: ClassVar = "srr"
    stages: ClassVar = ("report", "prune")

    kind: Literal["SelfRewardRun"] = "SelfRewardRun"
    spec: SelfRewardRunSpec
    status: SelfRewardRunStatus = SelfRewardRunStatus()
