"""What the planner wants carried out for a manifest, as `psr run --dry-run` finds it.

This file alone knows how a manifest is planned and how a stage's digest is computed; the test and the recorder stand
on it.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from psr_operator.api.manifest import load_manifests
from psr_operator.local.executor import Executor
from psr_operator.local.rehearsal import Rehearsal
from psr_operator.planner.types import Workload, WorkloadState
from psr_runtime.config import StageConfig, input_uris, stage_digest
from psr_runtime.stages import STAGES

UID = "00000000-0000-0000-0000-000000000000"
"""Stands for the uid of every object: uids are made anew for each run, and no digest holds them."""


@dataclass(frozen=True)
class Planned:
    """One process of a workload.

    Attributes:
        workload: name of the workload.
        shard: number of the process in it.
        configuration: as the process reads it, with `UID` for every uid.
        digest: of the stage, with every input's digest worked out from its URI.
    """

    workload: str
    stage: str
    shard: int
    configuration: dict[str, Any]
    digest: str


def plan_manifest(text: str) -> list[Planned]:
    """Every process that is wanted for the objects of a manifest when everything succeeds, in order."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "manifest.yaml")
        path.write_text(on_one_gpu(text))
        node = _Node(lambda _: None)
        executor = Executor(Path(folder), node, lambda _: None)
        executor.apply(load_manifests([path]))
        lines = -1
        while not executor.finished and node.lines > lines:  # a server of its own never ends
            lines = node.lines
            executor.settle()
    stalled = [item.ref for item in executor.roots if item.status.holds("Stalled")]
    assert not stalled, f"stalled: {stalled}"
    return [
        _planned(workload, shard, configuration)
        for workload in node.wanted
        for shard, configuration in enumerate(workload.configurations)
    ]


def on_one_gpu(text: str) -> str:
    """The text of a manifest whose trainings take one GPU of one node: no digest holds how many there are."""
    return re.sub(r"(trainingResources:.*\n    nodes: )\d+(\n    gpus: )\d+", r"\g<1>1\g<2>1", text)


def digest_of(stage: str, configuration: Mapping[str, Any]) -> str:
    """The digest that a stage gives to what it makes from this configuration.

    Raises:
        pydantic.ValidationError: the stage cannot read it.
    """
    parsed = STAGES[stage].config.model_validate_json(json.dumps(configuration))
    assert isinstance(parsed, StageConfig)
    inputs = {place: stand_in_digest(uri) for place, uri in input_uris(parsed).items()}
    return stage_digest(stage, schema_version(stage), parsed, inputs)


def schema_version(stage: str) -> int:
    """The version of what a stage computes."""
    return STAGES[stage].schema_version


def stand_in_digest(uri: str) -> str:
    """A digest for what lies at a URI, where nothing lies."""
    return f"sha256:{hashlib.sha256(uri.encode()).hexdigest()}"


class _Node(Rehearsal):
    """Keeps every workload that it is told to run. What one makes gets a digest that its URI alone decides."""

    def __init__(self, say: Any) -> None:
        super().__init__(say)
        self.wanted: list[Workload] = []

    def run(self, workload: Workload) -> None:
        self.wanted.append(workload)
        super().run(workload)

    def workload(self, name: str) -> WorkloadState | None:
        state = super().workload(name)
        if state is None or state.result is None:
            return state
        return replace(state, result={**state.result, "digest": stand_in_digest(str(state.result["output"]))})


def _planned(workload: Workload, shard: int, configuration: StageConfig) -> Planned:
    words = configuration.to_json()
    if "owner" in words:
        words["owner"]["uid"] = UID
    return Planned(workload.name, workload.stage, shard, words, digest_of(workload.stage, words))
