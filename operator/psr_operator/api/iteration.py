"""SelfRewardIteration: one round, M(i) → pairs → M(i+1)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from psr_operator.api.common import (
    Label,
    Place,
    Resource,
    Resources,
    Status,
    StorageSpec,
    TrainingResources,
    Upkeep,
)
from psr_operator.api.pod import PodOverrides
from psr_operator.api.server import ServerChoice
from psr_runtime.config import (
    MANY,
    JudgeConfig,
    ModelSource,
    Owner,
    Prompts,
    Questions,
    SearchConfig,
    StepDPOConfig,
    Uri,
    input_uri,
    method,
    operation,
)


class Loop(Upkeep):
    """What a round and a run of rounds share: method and hardware of searching and training."""

    model: ModelSource = method(description="The model to improve.")
    problems: Uri = input_uri(
        description="Problems (id, problem), in any form of docs/data.md. Answers in them are not read."
    )
    prompts: Prompts = method(Prompts(), description="Prompts of both skills.")
    search: SearchConfig = method(SearchConfig(), description="Step search.")
    judge: JudgeConfig = method(JudgeConfig(), description="Self-judging.")
    training: StepDPOConfig = method(StepDPOConfig(), description="Step-wise DPO.")
    seed: int = method(0, ge=0, lt=2**31, description="Seed of everything that is drawn.")
    storage: StorageSpec = method(description="Where artefacts go.")
    search_shards: int = operation(1, ge=1, le=1024, description="Pods that share a round's problems.")
    search_resources: Resources = operation(Resources(), description="Hardware of searching and evaluating pods.")
    training_resources: TrainingResources = operation(TrainingResources(), description="Hardware of training pods.")
    search_pod: PodOverrides | None = operation(None, description="Merged into searching and evaluating pods.")
    training_pod: PodOverrides | None = operation(None, description="Merged into training pods.")


class SelfRewardIterationSpec(Loop):
    """One round of searching, judging and training."""

    questions: Questions = method(description="The window of problems of this round.")
    iteration: int = method(1, ge=1, le=MANY, description="Number of the round; it improves M<iteration>.")
    server: ServerChoice = operation(description="Server of the policy.")
    pairs_output: Place | None = method(None, description="Where the pair set goes. Unset: below the storage prefix.")
    output: Place | None = method(None, description="Where the new checkpoint goes. Unset: below the storage prefix.")
    owner: Owner | None = operation(None, description="Claim on the storage prefix. Set by the parent.")


class SelfRewardIterationStatus(Status):
    """What a round has made."""

    pairs: Uri | None = Field(None, description="URI of the pair set.")
    pair_count: int | None = Field(None, description="Pairs in it.")
    output: Uri | None = Field(None, description="URI of the new checkpoint.")
    digest: Label | None = Field(None, description="Digest of the new checkpoint.")


class SelfRewardIteration(Resource):
    """M(i) → M(i+1)."""

    plural: ClassVar = "selfrewarditerations"
    short_name: ClassVar = "sri"

    kind: Literal["SelfRewardIteration"] = "SelfRewardIteration"
    spec: SelfRewardIterationSpec
    status: SelfRewardIterationStatus = SelfRewardIterationStatus()
