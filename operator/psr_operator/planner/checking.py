"""What a check is to look at: the configuration of the stage `check`, from what an object declares."""

from __future__ import annotations

from typing import Any

from psr_operator.api import (
    ModelEvaluation,
    PolicyServer,
    PreferenceGeneration,
    Resource,
    SelfRewardIteration,
    SelfRewardRun,
    SFTJob,
    StepDPOJob,
)
from psr_operator.api.common import TrainingResources
from psr_operator.api.server import ServerTemplate
from psr_operator.planner.inheritance import owner_of, prefix_of
from psr_runtime.config import CheckedEvaluation, CheckStage, EngineConfig, Hardware, Questions
from psr_runtime.stages import Makes


def check_configuration(resource: Resource) -> CheckStage | None:
    """What is to be checked of an object; None for one that declares no work with a storage."""
    spec = resource.spec
    if spec.storage is None:
        return None
    fields: dict[str, Any] = {
        "output": f"{prefix_of(resource)}/{Makes.CHECK}",
        "storage": spec.storage.access(),
        "owner": owner_of(resource),
    }
    for name in ("model", "problems", "prompts", "search", "judge", "seed", "pairs", "ift", "eft"):
        if hasattr(spec, name):
            fields[name] = getattr(spec, name)
    match resource:
        case SelfRewardRun():
            fields |= _of_run(resource)
        case SelfRewardIteration():
            fields |= {"rounds": [spec.questions], "training": spec.training, "names": {"iterations": "questions"}}
            fields |= _of_server(spec.server.inline, spec.training_resources) | _inline(fields)
        case PreferenceGeneration():
            fields |= {"rounds": [spec.questions], "names": {"iterations": "questions"}}
            fields |= _of_server(spec.server.inline) | _inline(fields)
        case SFTJob():
            fields |= {"sft": spec.training, "names": _OF_SFT_JOB} | _of_server(None, spec.resources)
        case StepDPOJob():
            fields |= {"training": spec.training, "names": {"trainingResources": "resources"}}
            fields |= _of_server(None, spec.resources)
        case ModelEvaluation():
            evaluation = CheckedEvaluation(name=_ONLY, problems=spec.problems, evaluation=spec.evaluation)
            del fields["problems"]
            fields |= {"evaluations": [evaluation], "names": _OF_EVALUATION} | _of_server(spec.server.inline)
            fields |= _inline(fields)
        case PolicyServer():
            fields |= {"names": {"server": ""}} | _of_server(spec)
        case _:
            return None
    return CheckStage(**fields)


_ONLY = "only"
_OF_EVALUATION = {f"evaluations[{_ONLY}].problems": "problems", f"evaluations[{_ONLY}].evaluation": "evaluation"}
_OF_SFT_JOB = {
    "sft.ift": "ift",
    "sft.eft": "eft",
    "sft.training": "training",
    "trainingResources": "resources",
}


def _inline(fields: dict[str, Any]) -> dict[str, Any]:
    """A server of the object's own stands under `server.inline`."""
    return {"names": {**fields.get("names", {}), "server": "server.inline"}}


def _of_run(run: SelfRewardRun) -> dict[str, Any]:
    spec = run.spec
    rounds, offset = [], 0
    for item in spec.iterations:
        rounds.append(Questions(offset=offset, count=item.questions, allow_reuse=item.allow_reuse))
        offset += item.questions
    evaluations = [
        CheckedEvaluation(name=item.name, problems=item.problems, evaluation=item.evaluation)
        for item in spec.evaluations
    ]
    fields: dict[str, Any] = {
        "rounds": rounds,
        "training": spec.training,
        "evaluations": evaluations,
        "retention": spec.storage.retention,
    }
    if spec.sft is not None:
        fields |= {"ift": spec.sft.ift, "eft": spec.sft.eft, "sft": spec.sft.training}
    return fields | _of_server(spec.server, spec.training_resources)


def _of_server(template: ServerTemplate | None, training: TrainingResources | None = None) -> dict[str, Any]:
    """The engine and what is asked for; a server of another object is checked with that."""
    server = template.resources.gpus if template is not None else 0
    hardware = Hardware(
        server_gpus=server,
        replicas=template.replicas if template is not None else 1,
        training_gpus=training.gpus if training is not None else 0,
        training_nodes=training.nodes if training is not None else 1,
    )
    engine: EngineConfig | None = template.engine if template is not None else None
    return {"engine": engine, "hardware": hardware}
