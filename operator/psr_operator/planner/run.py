"""SelfRewardRun: M0 → M1 → … → Mn on one server, evaluated model by model, reported at the end.

What is made stands in `made.py`; which weights go meanwhile, in `retention.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
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
from psr_operator.api.run import RunEvaluation, SelfRewardRunStatus
from psr_operator.api.server import ServerChoice
from psr_operator.api.training import SFTJobSpec
from psr_operator.conditions import State, Summary, Transition, status_fields, transition
from psr_operator.planner import retention
from psr_operator.planner.iteration import SUSPENDED, child_summary
from psr_operator.planner.leaves import handed_down, owner_of, prefix_of
from psr_operator.planner.lifecycle import Life, Moment, Step, live
from psr_operator.planner.names import child_name
from psr_operator.planner.placement import placement, storage_of
from psr_operator.planner.run_models import (
    Model,
    evaluation_name,
    evaluation_output,
    evaluations,
    iteration_name,
    let_go,
    made_models,
    model_status,
    over,
    reported,
    server_name,
    sft_name,
    was_made,
)
from psr_operator.planner.server import Reader, child_meta, child_server, intent, misses_pruned
from psr_operator.planner.types import Observed, Plan
from psr_runtime.config import Questions, ReportStage, StageConfig


def plan_run(run: SelfRewardRun, observed: Observed, now: datetime) -> Plan:
    """Children for every model that exists, a server for whoever reads, the report when all is done."""
    models = made_models(run, observed)
    moment = _own_work(run, observed, models, _summary(run, observed, models), now)
    summary, status = moment.summary, moment.status
    assert isinstance(status, SelfRewardRunStatus)
    seen = run.model_copy(update={"status": status})
    status = status.model_copy(
        update={
            **status_fields(summary, run, now),
            "models": [model_status(seen, observed, model) for model in models],
            "step": f"{models[-1].name if models else 'M0'} {summary.reason}",
            "progress": _progress(run, models),
        }
    )
    return Plan(
        status=status,
        children=(*_children(run, observed, models), *_server(run, observed, models)),
        workloads=(moment.workload,) if moment.workload is not None else (),
        stop=moment.stop,
        transition=transition(run, summary) or _unpruned(run, status),
        again_after=moment.again_after,
    )


def _own_work(
    run: SelfRewardRun, observed: Observed, models: Sequence[Model], summary: Summary | None, now: datetime
) -> Moment:
    """The run's own work, one Workload at a time: removals of weights beside the rounds, the report at the end.

    What was begun goes on; then the report comes before further removals. The run is Ready when both are done, or
    when what is left of removals has failed for good.

    Args:
        summary: how the run stands on its children; None when only its own work is left.
    """
    status = run.status
    if run.spec.storage.retention == "All" and status.unpruned:
        status = status.model_copy(update={"unpruned": {}})
        run = run.model_copy(update={"status": status})
    begun = retention.under_way(run, observed, models)
    if begun is not None:
        moment = retention.removal(run, observed, begun, now)
        return replace(moment, summary=summary or _pruning(moment))
    finished = Summary(State.DONE, "Succeeded")
    if summary is None:
        report = live(_report(run, observed, models), observed, now)
        if report.summary.state is not State.DONE:
            return report
        finished, status = report.summary, report.status  # type: ignore[assignment]
        run = run.model_copy(update={"status": status})
    elif summary.state is not State.WORKING:
        return Moment(status, summary)
    waits = None
    for model in retention.due(run, observed, models):
        waits = retention.serving(run, observed, model)
        if waits is None:
            moment = retention.removal(run, observed, model, now)
            return replace(moment, summary=summary or _pruning(moment))
    if summary is None and waits is not None:
        return Moment(status, SUSPENDED if run.spec.suspend else waits)
    told = retention.told(run, observed, models, status)
    return Moment(status, summary or replace(finished, message=f"{finished.message}{told}"))


def _pruning(moment: Moment) -> Summary:
    """How a run stands that has nothing else to do than this removal; its failure is not the run's."""
    summary = moment.summary
    if summary.state in (State.DONE, State.FAILED):
        return Summary(State.WORKING, "Pruning", summary.message)
    return summary


def _unpruned(run: SelfRewardRun, status: SelfRewardRunStatus) -> Transition | None:
    """The event of weights that could not be removed."""
    for name, failure in status.unpruned.items():
        if run.status.unpruned.get(name) != failure:
            message = f"weights of {name} were not removed: {failure.reason}: {failure.message}"
            return Transition(run.kind, run.metadata.name, warning=True, reason="PruneFailed", message=message)
    return None


# --- how it stands -----------------------------------------------------------------------------------------


def _summary(run: SelfRewardRun, observed: Observed, models: Sequence[Model]) -> Summary | None:
    """How the run stands on its children; None when only its own work is left."""
    server = observed.child("PolicyServer", server_name(run))
    stuck = server is not None and not misses_pruned(server, server.spec.model.uri, prefix_of(run))
    if server is not None and stuck and server.status.holds("Stalled"):
        return child_summary(server, "Serving", run.spec.suspend)
    if not models:
        return child_summary(observed.child("SFTJob", sft_name(run)), "FineTuning", run.spec.suspend)
    failed = [item for item in evaluations(run, observed, models, required=True) if item.status.holds("Stalled")]
    if failed:
        return child_summary(failed[0], "Evaluating", run.spec.suspend)
    number = models[-1].number
    if number <= len(run.spec.iterations):
        child = observed.child("SelfRewardIteration", iteration_name(run, number))
        doing = (
            child.status.step if child is not None and child.status.step in ("Generating", "Training") else "Iterating"
        )
        return child_summary(child, doing, run.spec.suspend)
    open_ones = [item for item in evaluations(run, observed, models) if not over(item)]
    if open_ones or any(_lacks_evaluations(run, observed, model) for model in models):
        return child_summary(open_ones[0] if open_ones else None, "Evaluating", run.spec.suspend)
    return None


def _progress(run: SelfRewardRun, models: Sequence[Model]) -> str:
    total = len(run.spec.iterations) + 1
    return f"{len(models)}/{total} models"


# --- what is wanted ----------------------------------------------------------------------------------------


def _children(run: SelfRewardRun, observed: Observed, models: Sequence[Model]) -> list[Resource]:
    """Who makes the models and who evaluates them. One that has served its end and was deleted is not made again where
    it would read weights that are gone."""
    found: list[tuple[Resource, bool]] = []
    if run.spec.sft is not None:
        found.append((_sft(run), was_made(run, 1)))
    for model in models:
        found += [(_evaluation(run, model, item), let_go(run, model.number)) for item in run.spec.evaluations]
        if model.number <= len(run.spec.iterations):
            found.append((_iteration(run, model), was_made(run, model.number + 1)))
    return [
        child for child, served in found if not served or observed.child(child.kind, child.metadata.name) is not None
    ]


def _sft(run: SelfRewardRun) -> SFTJob:
    spec = run.spec
    assert spec.sft is not None
    return SFTJob(
        metadata=child_meta(run, sft_name(run)),
        spec=SFTJobSpec(
            model=spec.model,
            ift=spec.sft.ift,
            eft=spec.sft.eft,
            prompts=spec.prompts,
            training=spec.sft.training,
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
            pairs_output=f"{prefix_of(run)}/iteration-{number}/pairs",
            output=f"{prefix_of(run)}/m{number + 1}",
            owner=owner_of(run),
        ),
    )


def _evaluation(run: SelfRewardRun, model: Model, item: RunEvaluation) -> ModelEvaluation:
    spec = run.spec
    return ModelEvaluation(
        metadata=child_meta(run, evaluation_name(run, model, item)),
        spec=ModelEvaluationSpec(
            model=model.source,
            problems=item.problems,
            prompts=spec.prompts,
            evaluation=item.evaluation,
            server=ServerChoice(ref=server_name(run)),
            output=evaluation_output(run, model, item),
            **handed_down(run),
            resources=spec.search_resources,
            pod=spec.search_pod,
        ),
    )


def _server(run: SelfRewardRun, observed: Observed, models: Sequence[Model]) -> list[Resource]:
    """The run's one server. Its readers are unfinished generations and evaluations."""
    spec = run.spec
    readers = [Reader(model.source, model.digest) for model in models if _is_read(run, observed, model)]
    name = server_name(run)
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
    return [child_server(run, name, spec.server, storage_of(run), wanted)] if wanted else []


def _is_read(run: SelfRewardRun, observed: Observed, model: Model) -> bool:
    if model.number <= len(run.spec.iterations):
        iteration = observed.child("SelfRewardIteration", iteration_name(run, model.number))
        if iteration is None and not was_made(run, model.number + 1):
            return True
        if iteration is not None and not (iteration.status.pairs or over(iteration)):
            return True
    found = evaluations(run, observed, [model])
    return _lacks_evaluations(run, observed, model) or any(not over(item) for item in found)


def _lacks_evaluations(run: SelfRewardRun, observed: Observed, model: Model) -> bool:
    """Whether evaluations of a model are still to be made; what was deleted after its weights went is not."""
    found = evaluations(run, observed, [model])
    return len(found) < len(run.spec.evaluations) and not let_go(run, model.number)


def _all_read(run: SelfRewardRun, observed: Observed, models: Sequence[Model]) -> bool:
    """Whether nobody will read from a model of this run any more: a server that is kept can go."""
    complete = len(models) == len(run.spec.iterations) + 1
    stuck = any(item.status.holds("Stalled") for item in observed.children if item.kind == "SelfRewardIteration")
    return (complete or stuck) and not any(_is_read(run, observed, model) for model in models)


def _is_training(run: SelfRewardRun, observed: Observed, models: Sequence[Model]) -> bool:
    if not models:
        job = observed.child("SFTJob", sft_name(run))
        return job is None or not over(job)
    iteration = observed.child("SelfRewardIteration", iteration_name(run, models[-1].number))
    if iteration is None:
        return False
    unknown = iteration.status.observed_generation < 0  # new, or its status was lost: it may be training
    return unknown or (iteration.status.pairs is not None and not over(iteration))


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
                models=[reported(run, observed, model) for model in models],
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
