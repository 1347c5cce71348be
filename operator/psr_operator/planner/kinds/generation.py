"""PreferenceGeneration: search in shards, then merge them."""

from __future__ import annotations

from datetime import datetime

from psr_operator.api import PreferenceGeneration
from psr_operator.planner.asking import endpoint_of, server_name, with_own_server
from psr_operator.planner.lifecycle import Task
from psr_operator.planner.placement import placement_of_work
from psr_operator.planner.results import MERGE, SEARCH, Results, pair_set_result
from psr_operator.planner.types import Observed, Plan
from psr_operator.planner.work import method_fields, plan_work, stage_fields
from psr_operator.reasons import Reason
from psr_runtime.config import MergeStage, SearchMethod, SearchStage, StageConfig
from psr_runtime.stages import shard_folder


def plan_generation(generation: PreferenceGeneration, observed: Observed, now: datetime) -> Plan:
    """The plan of a PreferenceGeneration."""
    spec = generation.spec
    endpoint, waits = endpoint_of(generation, observed)
    shared = stage_fields(generation)
    parts = [f"{shared['output']}/{shard_folder(index, spec.shards)}" for index in range(spec.shards)]

    def search(_: Results) -> tuple[StageConfig, ...]:
        method = method_fields(generation, SearchMethod)
        return tuple(
            SearchStage(**{**shared, "output": part}, **method, shard=index, shards=len(parts), server=endpoint)
            for index, part in enumerate(parts)
        )

    def merge(_: Results) -> tuple[StageConfig, ...]:
        return (MergeStage(**shared, parts=parts, iteration=spec.iteration),)

    placed, asked = placement_of_work(generation), server_name(generation)
    tasks = [
        Task(SEARCH, "search", search, Reason.SEARCHING, placed, waits, asked),
        Task(MERGE, "merge", merge, Reason.MERGING, placement_of_work(generation, gpus=False)),
    ]
    return with_own_server(generation, plan_work(generation, tasks, _summary, observed, now))


def _summary(done: Results) -> str:
    result = pair_set_result(done)
    assert result is not None
    return f"{result.pairs} pairs from {result.problems} problems"
