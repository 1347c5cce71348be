"""The configuration of every stage: every parameter of the method, once, with its default and source.

A file an area. `fields.py` says how a field is declared and marked, `digest.py` what of a configuration decides a
result. Sources are written as `Paper §4` (a section of arXiv:2503.03746) or as "ours" where the paper is silent.
What does not belong here: reading files, clients, defaults that depend on the machine.
"""

from psr_runtime.config.check import CheckedEvaluation, CheckStage, Hardware
from psr_runtime.config.digest import input_uris, method_fields, stage_digest
from psr_runtime.config.evaluation import EvaluateMethod, EvaluateStage, EvaluationConfig
from psr_runtime.config.fields import (
    HUB,
    LATER,
    MANY,
    MARK,
    PLUGIN,
    URI,
    ChildName,
    Name,
    PluginName,
    Schema,
    Text,
    Uri,
    input_uri,
    method,
    operation,
    plugin,
)
from psr_runtime.config.model import ModelSource, Prompts
from psr_runtime.config.report import ReportedEvaluation, ReportedModel, ReportStage
from psr_runtime.config.retention import PrunedModel, PruneStage
from psr_runtime.config.search import JudgeConfig, MergeStage, Questions, SearchConfig, SearchMethod, SearchStage
from psr_runtime.config.serving import MAX_EXTRA_ARGS, Endpoint, EngineConfig, ModelOrder, ServeStage
from psr_runtime.config.storage import Owner, StageConfig, StorageAccess
from psr_runtime.config.training import (
    OptimizerConfig,
    SFTConfig,
    SFTMethod,
    SFTStage,
    StepDPOConfig,
    StepDPOMethod,
    StepDPOStage,
    TrainingConfig,
)

__all__ = [
    "HUB",
    "LATER",
    "MANY",
    "MARK",
    "MAX_EXTRA_ARGS",
    "PLUGIN",
    "URI",
    "CheckStage",
    "CheckedEvaluation",
    "ChildName",
    "Endpoint",
    "EngineConfig",
    "EvaluateMethod",
    "EvaluateStage",
    "EvaluationConfig",
    "Hardware",
    "JudgeConfig",
    "MergeStage",
    "ModelOrder",
    "ModelSource",
    "Name",
    "OptimizerConfig",
    "Owner",
    "PluginName",
    "Prompts",
    "PruneStage",
    "PrunedModel",
    "Questions",
    "ReportStage",
    "ReportedEvaluation",
    "ReportedModel",
    "SFTConfig",
    "SFTMethod",
    "SFTStage",
    "Schema",
    "SearchConfig",
    "SearchMethod",
    "SearchStage",
    "ServeStage",
    "StageConfig",
    "StepDPOConfig",
    "StepDPOMethod",
    "StepDPOStage",
    "StorageAccess",
    "Text",
    "TrainingConfig",
    "Uri",
    "input_uri",
    "input_uris",
    "method",
    "method_fields",
    "operation",
    "plugin",
    "stage_digest",
]
