"""The stages, as data: what each reads, says at its end and makes, how its work is cut, and where its code is.

Whoever plans, renders or checks looks here; nothing of a stage is imported before it runs.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Any

from psr_runtime import config
from psr_runtime.config import StageConfig, results


class Shape(Enum):
    """How a stage's work is cut into processes."""

    SINGLE = "single"
    """One process."""
    SHARDED = "sharded"
    """Processes that share nothing, each with an artefact of its own; one may fail and come again alone. Their
    configurations differ in the field `shard` and in the end of `output`, `shard_folder`, and in nothing else."""
    RANKED = "ranked"
    """Processes that work on one thing together; when one fails, all begin again."""


class Makes(StrEnum):
    """What a stage makes; also the folder in which it lies unless its spec says another."""

    CHECKPOINT = "checkpoint"
    PAIRS = "pairs"
    EVALUATION = "evaluation"
    REPORT = "report"
    RETENTION = "retention"
    CHECK = "check"


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        name: as on the command line.
        config: its configuration.
        result: what it says at its end.
        makes: the kind of its artefact.
        schema_version: raised when the meaning of what it computes changes; part of every digest.
        implementation: `module:function`, called with configuration and context; or the function itself.
        working: folders below the output that hold half-done work; removed once the manifest stands.
    """

    name: str
    summary: str
    config: type[StageConfig]
    result: type[results.StageResult]
    makes: Makes
    implementation: str | Callable[..., Any]
    schema_version: int = 1
    shape: Shape = Shape.SINGLE
    working: tuple[str, ...] = ()

    def load(self) -> Callable[..., Any]:
        """The function that does the work."""
        if not isinstance(self.implementation, str):
            return self.implementation
        module, _, function = self.implementation.partition(":")
        loaded: Callable[..., Any] = getattr(importlib.import_module(module), function)
        return loaded


STAGES: dict[str, Stage] = {}
"""Every stage by name."""


def register(stage: Stage) -> Stage:
    """Add a stage."""
    STAGES[stage.name] = stage
    return stage


def shard_folder(index: int | str, shards: int) -> str:
    """Folder of one shard's artefact below that of the whole; for `index`, a placeholder will do."""
    return f"shards/{index}-of-{shards}"


def makers(makes: Makes) -> tuple[str, ...]:
    """Names of the stages whose artefact is of this kind."""
    return tuple(stage.name for stage in STAGES.values() if stage.makes is makes)


register(
    Stage(
        "sft",
        "fine-tune M0 to M1",
        config.SFTStage,
        results.SFTResult,
        Makes.CHECKPOINT,
        "psr_runtime.training.stage:sft",
        shape=Shape.RANKED,
        working=("resume",),
    )
)
register(
    Stage(
        "search",
        "search and judge steps",
        config.SearchStage,
        results.PairSetResult,
        Makes.PAIRS,
        "psr_runtime.search.stage:run",
        shape=Shape.SHARDED,
        working=("log",),
    )
)
register(
    Stage(
        "merge",
        "join the shards of a search",
        config.MergeStage,
        results.PairSetResult,
        Makes.PAIRS,
        "psr_runtime.search.merge:run",
    )
)
register(
    Stage(
        "step-dpo",
        "train M(i) to M(i+1)",
        config.StepDPOStage,
        results.StepDPOResult,
        Makes.CHECKPOINT,
        "psr_runtime.training.stage:step_dpo",
        shape=Shape.RANKED,
        working=("resume",),
    )
)
register(
    Stage(
        "evaluate",
        "accuracy of a model",
        config.EvaluateStage,
        results.EvaluateResult,
        Makes.EVALUATION,
        "psr_runtime.evaluation.stage:run",
        working=("log",),
    )
)
register(
    Stage(
        "report",
        "HTML report over a run",
        config.ReportStage,
        results.ReportResult,
        Makes.REPORT,
        "psr_runtime.report.stage:run",
    )
)
register(
    Stage(
        "prune",
        "remove weights that nobody reads any more",
        config.PruneStage,
        results.PruneResult,
        Makes.RETENTION,
        "psr_runtime.prune:run",
    )
)
register(
    Stage(
        "check",
        "look at what a run declares before it starts",
        config.CheckStage,
        results.CheckResult,
        Makes.CHECK,
        "psr_runtime.check.stage:run",
    )
)
