"""PreferenceGeneration: preference pairs by self-judged step search, in shards that are merged."""

from __future__ import annotations

from typing import Literal

from psr_operator.api.common import Resource, Work, WorkStatus
from psr_operator.api.server import ServerChoice
from psr_runtime.config import (
    JudgeConfig,
    ModelSource,
    Prompts,
    Questions,
    SearchConfig,
    Uri,
    given,
    method,
    operation,
)


class PreferenceGenerationSpec(Work):
    """Search, judge, pair. Paper section 8."""

    model: ModelSource = method(description="The policy M(i), which is its own judge.")
    problems: Uri = given(description="Problem file (JSON lines: id, problem). Answers in it are not read.")
    questions: Questions = method(description="The window of problems of this round.")
    prompts: Prompts = method(Prompts(), description="Prompts of both skills.")
    search: SearchConfig = method(SearchConfig(), description="Step search.")
    judge: JudgeConfig = method(JudgeConfig(), description="Self-judging.")
    iteration: int = method(1, ge=1, description="Number of the round, part of every seed.")
    seed: int = method(0, ge=0, lt=2**31, description="Seed of the run.")
    shards: int = operation(1, ge=1, le=4096, description="Pods that share the problems.")
    server: ServerChoice = operation(description="Server of the policy.")


class PreferenceGeneration(Resource):
    """M(i) → pairs."""

    kind: Literal["PreferenceGeneration"] = "PreferenceGeneration"
    spec: PreferenceGenerationSpec
    status: WorkStatus = WorkStatus()
