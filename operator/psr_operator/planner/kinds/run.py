"""SelfRewardRun: M0 → M1 → … → Mn on one server, evaluated model by model, reported at the end.

Its models are worked out in `run_models.py`; which weights go meanwhile, in `retention.py`; the objects that it makes,
in `run_children.py`.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from psr_operator.api import SelfRewardRun
from psr_operator.api.common import Resources
from psr_operator.api.run import SelfRewardRunStatus
from psr_operator.conditions import State, Summary, Transition, status_fields, transition
from psr_operator.planner import retention
from psr_operator.planner.asking import misses_pruned
from psr_operator.planner.inheritance import owner_of, prefix_of
from psr_operator.planner.lifecycle import Lifecycle, Task
from psr_operator.planner.names import base_name, child_name
from psr_operator.planner.own_work import OwnWork, Progress, carry_on
from psr_operator.planner.parents import SUSPENDED, child_summary
from psr_operator.planner.placement import placement
from psr_operator.planner.results import Results
from psr_operator.planner.run_children import children, server
from psr_operator.planner.run_models import Model, RunModels, run_models
from psr_operator.planner.types import Observed, Plan
from psr_operator.reasons import Reason
from psr_runtime.config import ReportStage, StageConfig
from psr_runtime.stages import Makes


def plan_run(run: SelfRewardRun, observed: Observed, now: datetime) -> Plan:
    """Children for every model that exists, a server for whoever reads, the report when all is done."""
    models = run_models(run, observed)
    summary = _children_summary(models)
    progress = _own_work(models, summary, observed, now)
    if summary is None:
        summary = _own_summary(models, progress)
    status = progress.status.model_copy(
        update={
            **status_fields(summary, run, now),
            "models": [model.status(progress.status) for model in models.models],
            "step": f"{models.newest.name if models.newest else 'M0'} {summary.reason}",
            "progress": f"{len(models.models)}/{len(run.spec.iterations) + 1} models",
        }
    )
    return Plan(
        status=status,
        children=(*children(models), *server(models)),
        workloads=(progress.workload,) if progress.workload is not None else (),
        stop=progress.stop,
        transition=transition(run, summary) or _unpruned(run, status),
        again_after=progress.again_after,
    )


def _children_summary(models: RunModels) -> Summary | None:
    """The summary of a run that waits for its children; None when only its own work is left."""
    run, serving, newest = models.run, models.server, models.newest
    suspend = run.spec.suspend
    can_serve = serving is None or not serving.status.holds("Stalled")
    if serving is not None and not (can_serve or misses_pruned(serving, serving.spec.model.uri, prefix_of(run))):
        return child_summary(serving, Reason.SERVING, suspend)
    if newest is None:
        return child_summary(models.sft, Reason.FINE_TUNING, suspend)
    evaluations = [item for model in models.models for item in model.evaluations]
    failed = next((item for item in evaluations if item.spec.required and item.is_stalled), None)
    if failed is not None:
        return child_summary(failed.child, Reason.EVALUATING, suspend)
    if models.has_round(newest):
        return child_summary(newest.iteration, _reason_of_round(newest), suspend)
    unfinished = [child for model in models.models for child in model.unfinished_evaluations]
    if unfinished or any(model.lacks_evaluations for model in models.models):
        blocked = (child for child in unfinished if child.status.blocked is not None)
        child = next(blocked, unfinished[0] if unfinished else None)
        return child_summary(child, Reason.EVALUATING, suspend)
    return None


def _reason_of_round(model: Model) -> Reason:
    step = model.iteration.status.step if model.iteration is not None else ""
    return next((item for item in (Reason.GENERATING, Reason.TRAINING) if item == step), Reason.ITERATING)


# --- the run's own work ------------------------------------------------------------------------------------


def _own_work(
    models: RunModels, summary: Summary | None, observed: Observed, now: datetime
) -> Progress[SelfRewardRunStatus]:
    """Carry on the report, and removals of weights beside the rounds.

    What was begun goes on; the report comes before further removals, and those only while the run works.

    Args:
        summary: of the run that waits for its children; None when only its own work is left.
    """
    run = models.run
    status = run.status
    if run.spec.storage.retention == "All" and status.unpruned:
        status = status.model_copy(update={"unpruned": {}})
    works = []
    begun = retention.begun(models, observed)
    if begun is not None:
        works.append(OwnWork(retention.removal(models, begun), begun.name))
    if summary is None and models.newest is not None:
        works.append(OwnWork(_report(models, models.newest)))
    if summary is None or summary.state is State.WORKING:
        works += [
            OwnWork(retention.removal(models, model), model.name, _waits(models, model))
            for model in retention.removable(models)
        ]
    return carry_on(works, status, observed, now)


def _waits(models: RunModels, model: Model) -> Summary | None:
    """Why a removal does not begin; of a suspended run that is its suspension."""
    waits = retention.until_unloaded(models, model)
    return SUSPENDED if waits is not None and models.run.spec.suspend else waits


def _own_summary(models: RunModels, progress: Progress[SelfRewardRunStatus]) -> Summary:
    """The summary of a run that has nothing left but its own work. A removal's failure is not the run's."""
    summary = progress.summary
    if summary is None:
        message = f"{progress.message}{retention.remarks(models, progress.status)}"
        return Summary(State.DONE, Reason.SUCCEEDED, message)
    if not progress.beside:
        return summary
    if summary.state in (State.DONE, State.FAILED):
        return replace(summary, state=State.WORKING, reason=Reason.PRUNING)
    return summary


def _report(models: RunModels, newest: Model) -> Lifecycle:
    """The lifecycle of the report: one Workload over all models."""
    run, spec = models.run, models.run.spec
    key = f"report-m{newest.number}"

    def configurations(_: Results) -> tuple[StageConfig, ...]:
        return (
            ReportStage(
                output=f"{prefix_of(run)}/{Makes.REPORT}/m{newest.number}",
                storage=spec.storage.access(),
                owner=owner_of(run),
                title=spec.report.title or f"Self-rewarding run {run.metadata.name}",
                note=spec.report.note,
                models=[model.reported() for model in models.models],
                step_oracle=spec.report.step_oracle,
                seed=spec.seed,
            ),
        )

    placed = placement(run, Resources(), spec.search_pod)
    return Lifecycle(
        name=child_name(base_name(run), key),
        generation=run.metadata.generation,
        tasks=[Task(key, "report", configurations, Reason.REPORTING, placed)],
        summary=lambda done: f"report at {done[key].get('output')}",
        suspend=spec.suspend,
        retries=spec.retries,
        scheduling_deadline=spec.scheduling_deadline_seconds,
    )


def _unpruned(run: SelfRewardRun, status: SelfRewardRunStatus) -> Transition | None:
    """The event of weights that could not be removed."""
    for name, failure in status.unpruned.items():
        if run.status.unpruned.get(name) != failure:
            message = f"weights of {name} were not removed: {failure.reason}: {failure.message}"
            return Transition(run.kind, run.metadata.name, True, Reason.PRUNE_FAILED, message)
    return None
