"""SelfRewardRun: M0 → M1 → … → Mn on one server, evaluated model by model, reported at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psr_operator.api import (
    ModelEvaluation,
    PolicyServer,
    Resource,
    SelfRewardIteration,
    SelfRewardRun,
    SFTJob,
)
from psr_operator.api.common import Resources
from psr_operator.api.evaluation import ModelEvaluationSpec
from psr_operator.api.iteration import Loop, SelfRewardIterationSpec
from psr_operator.api.run import ModelStatus, RunEvaluation, SelfRewardRunStatus
from psr_operator.api.server import ServerChoice
from psr_operator.api.training import SFTJobSpec
from psr_operator.conditions import Standing, stand, transition
from psr_operator.planner.iteration import child_standing
from psr_operator.planner.leaves import handed_down, owner_of, prefix_of
from psr_operator.planner.names import child_name
from psr_operator.planner.placement import placement
from psr_operator.planner.plan import Observed, Plan
from psr_operator.planner.server import Reader, child_meta, child_server, intent
from psr_operator.planner.stage import Life, Step, live
from psr_runtime.config import (
    ModelSource,
    Questions,
    ReportedEvaluation,
    ReportedModel,
    ReportStage,
    StageConfig,
)


@dataclass(frozen=True)
class Model:
    """A model of the run that exists: its number i of M(i), source and digest (None for one made elsewhere)."""

    number: int
    source: ModelSource
    digest: str | None

    @property
    def name(self) -> str:
        return f"M{self.number}"


def plan_run(run: SelfRewardRun, observed: Observed, now: datetime) -> Plan:
    """Children for every model that exists, a server for whoever reads, the report when all is done."""
    models = _models(run, observed)
    children: list[Resource] = []
    if run.spec.sft is not None:
        children.append(_sft(run))
    for model in models:
        children += [_evaluation(run, model, item) for item in run.spec.evaluations]
        if model.number <= len(run.spec.iterations):
            children.append(_iteration(run, model))
    children += _server(run, observed, models)

    standing = _standing(run, observed, models)
    status: SelfRewardRunStatus = run.status
    moment = None
    if standing is None:
        moment = live(_report(run, observed, models), observed, now)
        status, standing = moment.status, moment.standing  # type: ignore[assignment]
    status = status.model_copy(
        update={
            **stand(standing, run, now),
            "models": [_model_status(run, observed, model) for model in models],
            "step": f"{models[-1].name if models else 'M0'} {standing.reason}",
            "progress": _progress(run, models),
        }
    )
    return Plan(
        status=status,
        children=tuple(children),
        workloads=(moment.workload,) if moment is not None and moment.workload is not None else (),
        stop=moment.stop if moment is not None else (),
        transition=transition(run, standing),
        again_after=moment.again_after if moment is not None else None,
    )


# --- what exists -------------------------------------------------------------------------------------------


def _models(run: SelfRewardRun, observed: Observed) -> list[Model]:
    """M1 … as far as they are made."""
    spec = run.spec
    if spec.sft is None:
        first = Model(1, spec.model, None)
    else:
        job = observed.child("SFTJob", _sft_name(run))
        if job is None or not job.status.holds("Ready") or job.status.output is None:
            return []
        first = Model(1, _made(spec.model, job.status.output), job.status.digest)
    models = [first]
    for number in range(1, len(spec.iterations) + 1):
        iteration = observed.child("SelfRewardIteration", _iteration_name(run, number))
        if iteration is None or not iteration.status.holds("Ready") or iteration.status.output is None:
            break
        models.append(Model(number + 1, _made(spec.model, iteration.status.output), iteration.status.digest))
    return models


def _made(base: ModelSource, uri: str) -> ModelSource:
    return ModelSource(uri=uri, chat_template=base.chat_template)


def _standing(run: SelfRewardRun, observed: Observed, models: Sequence[Model]) -> Standing | None:
    """How the run stands on its children; None when only the report is left."""
    server = observed.child("PolicyServer", _server_name(run))
    if server is not None and server.status.holds("Stalled"):
        return child_standing(server, "Serving", run.spec.suspend)
    if not models:
        return child_standing(observed.child("SFTJob", _sft_name(run)), "FineTuning", run.spec.suspend)
    failed = [item for item in _evaluations(run, observed, models, required=True) if item.status.holds("Stalled")]
    if failed:
        return child_standing(failed[0], "Evaluating", run.spec.suspend)
    number = models[-1].number
    if number <= len(run.spec.iterations):
        child = observed.child("SelfRewardIteration", _iteration_name(run, number))
        doing = (
            child.status.step if child is not None and child.status.step in ("Generating", "Training") else "Iterating"
        )
        return child_standing(child, doing, run.spec.suspend)
    open_ones = [item for item in _evaluations(run, observed, models) if not _over(item)]
    expected = len(models) * len(run.spec.evaluations)
    if open_ones or len(_evaluations(run, observed, models)) < expected:
        return child_standing(open_ones[0] if open_ones else None, "Evaluating", run.spec.suspend)
    return None


def _evaluations(
    run: SelfRewardRun, observed: Observed, models: Sequence[Model], *, required: bool = False
) -> list[Resource]:
    found = [
        observed.child("ModelEvaluation", _evaluation_name(run, model, item))
        for model in models
        for item in run.spec.evaluations
        if item.required or not required
    ]
    return [item for item in found if item is not None]


def _over(child: Resource) -> bool:
    return bool(child.status.holds("Ready") or child.status.holds("Stalled"))


def _progress(run: SelfRewardRun, models: Sequence[Model]) -> str:
    total = len(run.spec.iterations) + 1
    return f"{len(models)}/{total} models"


def _model_status(run: SelfRewardRun, observed: Observed, model: Model) -> ModelStatus:
    iteration = observed.child("SelfRewardIteration", _iteration_name(run, model.number))
    accuracy = {}
    for item in run.spec.evaluations:
        child = observed.child("ModelEvaluation", _evaluation_name(run, model, item))
        if child is not None and child.status.holds("Ready"):
            accuracy[item.name] = float(child.status.done["evaluate"]["accuracy"])
    return ModelStatus(
        name=model.name,
        uri=model.source.uri,
        digest=model.digest,
        pairs=iteration.status.pairs if iteration is not None else None,
        pair_count=iteration.status.pair_count if iteration is not None else None,
        accuracy=accuracy,
    )


# --- what is wanted ----------------------------------------------------------------------------------------


def _sft(run: SelfRewardRun) -> SFTJob:
    spec = run.spec
    assert spec.sft is not None
    return SFTJob(
        metadata=child_meta(run, _sft_name(run)),
        spec=SFTJobSpec(
            model=spec.model,
            ift=spec.sft.ift,
            eft=spec.sft.eft,
            prompts=spec.prompts,
            training=spec.sft.training,
            seed=spec.seed,
            after_release=_server_name(run),
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
    shared = {name: getattr(spec, name) for name in Loop.model_fields if name != "model"}
    return SelfRewardIteration(
        metadata=child_meta(run, _iteration_name(run, number)),
        spec=SelfRewardIterationSpec(
            **shared,
            model=model.source,
            questions=Questions(offset=offset, count=this.questions, allow_reuse=this.allow_reuse),
            iteration=number,
            server=ServerChoice(ref=_server_name(run)),
            pairs_output=f"{prefix_of(run)}/iteration-{number}/pairs",
            output=f"{prefix_of(run)}/m{number + 1}",
            owner=owner_of(run),
        ),
    )


def _evaluation(run: SelfRewardRun, model: Model, item: RunEvaluation) -> ModelEvaluation:
    spec = run.spec
    return ModelEvaluation(
        metadata=child_meta(run, _evaluation_name(run, model, item)),
        spec=ModelEvaluationSpec(
            model=model.source,
            problems=item.problems,
            prompts=spec.prompts,
            evaluation=item.evaluation,
            server=ServerChoice(ref=_server_name(run)),
            output=f"{prefix_of(run)}/evaluations/m{model.number}/{item.name}",
            **handed_down(run),
            resources=spec.search_resources,
            pod=spec.search_pod,
        ),
    )


def _server(run: SelfRewardRun, observed: Observed, models: Sequence[Model]) -> list[Resource]:
    """The run's one server. Its readers are unfinished generations and evaluations."""
    spec = run.spec
    readers = [Reader(model.source, model.digest) for model in models if _is_read(run, observed, model)]
    name = _server_name(run)
    existing = observed.child("PolicyServer", name)
    assert existing is None or isinstance(existing, PolicyServer)
    wanted = intent(
        existing,
        spec.server if not _all_read(run, observed, models) else spec.server.model_copy(update={"idle": "Release"}),
        readers,
        training=_is_training(run, observed, models),
        training_gpus=spec.training_resources.gpus,
        suspended=spec.suspend,
    )
    return [child_server(run, name, spec.server, spec.storage, wanted)] if wanted else []


def _is_read(run: SelfRewardRun, observed: Observed, model: Model) -> bool:
    if model.number <= len(run.spec.iterations):
        iteration = observed.child("SelfRewardIteration", _iteration_name(run, model.number))
        if iteration is None or not (iteration.status.pairs or _over(iteration)):
            return True
    found = _evaluations(run, observed, [model])
    return len(found) < len(run.spec.evaluations) or any(not _over(item) for item in found)


def _all_read(run: SelfRewardRun, observed: Observed, models: Sequence[Model]) -> bool:
    """Whether nobody will read from a model of this run any more: a server that is kept can go."""
    complete = len(models) == len(run.spec.iterations) + 1
    stuck = any(item.status.holds("Stalled") for item in observed.children if item.kind == "SelfRewardIteration")
    return (complete or stuck) and not any(_is_read(run, observed, model) for model in models)


def _is_training(run: SelfRewardRun, observed: Observed, models: Sequence[Model]) -> bool:
    if not models:
        job = observed.child("SFTJob", _sft_name(run))
        return job is None or not _over(job)
    iteration = observed.child("SelfRewardIteration", _iteration_name(run, models[-1].number))
    if iteration is None:
        return False
    unknown = iteration.status.observed_generation < 0  # new, or its status was lost: it may be training
    return unknown or (iteration.status.pairs is not None and not _over(iteration))


def _report(run: SelfRewardRun, observed: Observed, models: Sequence[Model]) -> Life:
    """The report's own life: one Workload over everything that was made."""
    spec = run.spec

    def configurations(_: dict[str, dict[str, Any]]) -> tuple[StageConfig, ...]:
        return (
            ReportStage(
                output=f"{prefix_of(run)}/report/m{models[-1].number}",
                storage=spec.storage.access(),
                owner=owner_of(run),
                title=spec.report.title or f"Self-rewarding run {run.metadata.name}",
                note=spec.report.note,
                models=[_reported(run, observed, model) for model in models],
                step_oracle=spec.report.step_oracle,
                seed=spec.seed,
            ),
        )

    key = f"report-m{models[-1].number}"
    step = Step(key, "report", configurations, "Reporting", placement(run, Resources(), spec.search_pod))
    named = run.model_copy(
        update={"metadata": run.metadata.model_copy(update={"name": child_name(run.metadata.name, key)})}
    )

    def summary(done: dict[str, dict[str, Any]]) -> str:
        return f"report at {done[key].get('output')}"

    return Life(named, [step], spec.suspend, spec.retries, None, None, summary, spec.scheduling_deadline_seconds)


def _reported(run: SelfRewardRun, observed: Observed, model: Model) -> ReportedModel:
    iteration = observed.child("SelfRewardIteration", _iteration_name(run, model.number))
    evaluations = []
    for item in run.spec.evaluations:
        child = observed.child("ModelEvaluation", _evaluation_name(run, model, item))
        if child is not None and child.status.holds("Ready") and child.status.output is not None:
            evaluations.append(ReportedEvaluation(name=item.name, uri=child.status.output))
    return ReportedModel(
        name=model.name,
        checkpoint=model.source.uri,
        pairs=iteration.status.pairs if iteration is not None else None,
        evaluations=evaluations,
    )


# --- names -------------------------------------------------------------------------------------------------


def _sft_name(run: SelfRewardRun) -> str:
    return child_name(run.metadata.name, "sft")


def _iteration_name(run: SelfRewardRun, number: int) -> str:
    return child_name(run.metadata.name, number)


def _evaluation_name(run: SelfRewardRun, model: Model, item: RunEvaluation) -> str:
    return child_name(run.metadata.name, f"m{model.number}", item.name)


def _server_name(run: SelfRewardRun) -> str:
    return child_name(run.metadata.name, "server")
