"""The objects that a run makes: the fine-tuning, its rounds, its evaluations, and its one server."""

from __future__ import annotations

from psr_operator.api import ModelEvaluation, PolicyServer, Resource, SelfRewardIteration, SelfRewardRun, SFTJob
from psr_operator.api.evaluation import ModelEvaluationSpec
from psr_operator.api.iteration import Loop, SelfRewardIterationSpec
from psr_operator.api.run import RunSFT
from psr_operator.api.server import ServerChoice
from psr_operator.api.training import SFTJobSpec
from psr_operator.planner import gpus
from psr_operator.planner.inheritance import (
    child_meta,
    child_server,
    handed_down,
    owner_of,
    prefix_of,
    storage_of,
)
from psr_operator.planner.parents import has_ended
from psr_operator.planner.run_models import Evaluation, Model, RunModels, iteration_name, server_name, sft_name
from psr_runtime.config import Questions
from psr_runtime.stages import Makes


def children(models: RunModels) -> list[Resource]:
    """Who makes the models and who evaluates them. One that has served its end and was deleted is not made again where
    it would read weights that are gone."""
    run = models.run
    wanted: list[Resource] = []
    if run.spec.sft is not None and (models.sft is not None or not models.must_exist(1)):
        wanted.append(_sft(run, run.spec.sft))
    for model in models.models:
        wanted += [
            _evaluation(run, model, item)
            for item in model.evaluations
            if item.child is not None or model.weights == "Kept"
        ]
        if models.has_round(model) and (model.iteration is not None or not models.must_exist(model.number + 1)):
            wanted.append(_iteration(run, model))
    return wanted


def server(models: RunModels) -> list[PolicyServer]:
    """The run's one server. Its readers are unfinished generations and evaluations."""
    run, spec = models.run, models.run.spec
    readers = [gpus.Reader(model.source, model.digest) for model in models.models if _is_read(models, model)]
    template = spec.server
    if not readers and (models.are_complete or models.is_stuck):
        template = template.model_copy(update={"idle": "Release"})  # nobody will read any more
    wanted = gpus.intent(
        models.server,
        template,
        readers,
        training=_is_training(models),
        training_gpus=spec.training_resources.gpus,
        suspended=spec.suspend,
    )
    if wanted is None:
        return []
    name = server_name(run)
    return [child_server(run, name, spec.server, wanted.model, digest=wanted.digest, active=wanted.active)]


def _is_read(models: RunModels, model: Model) -> bool:
    iteration = model.iteration
    if models.has_round(model):
        if iteration is None and not models.must_exist(model.number + 1):
            return True
        if iteration is not None and not (iteration.status.pairs or has_ended(iteration)):
            return True
    return model.lacks_evaluations or bool(model.unfinished_evaluations)


def _is_training(models: RunModels) -> bool:
    if models.newest is None:
        return models.sft is None or not has_ended(models.sft)
    iteration = models.newest.iteration
    if iteration is None:
        return False
    unknown = iteration.status.observed_generation < 0  # new, or its status was lost: it may be training
    return unknown or (iteration.status.pairs is not None and not has_ended(iteration))


def _sft(run: SelfRewardRun, sft: RunSFT) -> SFTJob:
    spec = run.spec
    return SFTJob(
        metadata=child_meta(run, sft_name(run)),
        spec=SFTJobSpec(
            model=spec.model,
            ift=sft.ift,
            eft=sft.eft,
            prompts=spec.prompts,
            training=sft.training,
            seed=spec.seed,
            after_release=server_name(run),
            output=f"{prefix_of(run)}/m1",
            **handed_down(run),
            resources=spec.training_resources,
            pod=spec.training_pod,
        ),
    )


def _iteration(run: SelfRewardRun, model: Model) -> SelfRewardIteration:
    spec = run.spec
    number = model.number
    this = spec.iterations[number - 1]
    offset = sum(item.questions for item in spec.iterations[: number - 1])
    shared = {name: getattr(spec, name) for name in Loop.model_fields if name not in ("model", "storage")}
    return SelfRewardIteration(
        metadata=child_meta(run, iteration_name(run, number)),
        spec=SelfRewardIterationSpec(
            **shared,
            storage=storage_of(run),
            model=model.source,
            questions=Questions(offset=offset, count=this.questions, allow_reuse=this.allow_reuse),
            iteration=number,
            server=ServerChoice(ref=server_name(run)),
            pairs_output=f"{prefix_of(run)}/iteration-{number}/{Makes.PAIRS}",
            output=f"{prefix_of(run)}/m{number + 1}",
            owner=owner_of(run),
        ),
    )


def _evaluation(run: SelfRewardRun, model: Model, evaluation: Evaluation) -> ModelEvaluation:
    spec = run.spec
    return ModelEvaluation(
        metadata=child_meta(run, evaluation.name),
        spec=ModelEvaluationSpec(
            model=model.source,
            problems=evaluation.spec.problems,
            prompts=spec.prompts,
            evaluation=evaluation.spec.evaluation,
            server=ServerChoice(ref=server_name(run)),
            output=evaluation.output,
            **handed_down(run),
            resources=spec.search_resources,
            pod=spec.search_pod,
        ),
    )
