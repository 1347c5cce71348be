"""PreferenceGeneration: preference pairs by self-judged step search, in shards that are merged."""

from __future__ import annotations

from typing import ClassVar, Literal

from psr_operator.api.common import Resource, Work, WorkStatus
from psr_operator.api.server import ServerChoice
from psr_runtime.config import SearchMethod, operation


class PreferenceGenerationSpec(SearchMethod, Work):
    """Search, judge, pair. Paper §3.3."""

    shards: int = operation(1, ge=1, le=1024, description="Pods that share the problems.")
    server: ServerChoice = operation(description="Server of the policy.")


class PreferenceGeneration(Resource):
    """M(i) → pairs."""

    plural: ClassVar = "preferencegenerations"
    short_name: ClassVar = "pgen"
    stages: ClassVar = ("search", "merge")

    kind: Literal["PreferenceGeneration"] = "PreferenceGeneration"
    spec: PreferenceGenerationSpec
    status: WorkStatus = WorkStatus()
