"""Which models of a run keep their weights, and the work that removes the others'.

The weights of M(i) go once M(i+1) is made, every evaluation of M(i) is Ready, and no server can still be loading them.
An evaluation that is Stalled keeps them: another try would need them. All of that stays true once it is, so whoever
reads M(i) has ended for good before the removal is begun. It is work beside the run's own, one model at a time, beside
the rounds; one that fails for good is named in the run's message and stops nothing.
"""

from __future__ import annotations

from psr_operator.api.common import Resources
from psr_operator.api.run import SelfRewardRunStatus
from psr_operator.conditions import State, Summary
from psr_operator.planner import gpus
from psr_operator.planner.inheritance import owner_of, prefix_of
from psr_operator.planner.lifecycle import Lifecycle, Task
from psr_operator.planner.names import base_name, child_name
from psr_operator.planner.placement import placement
from psr_operator.planner.record import take_record
from psr_operator.planner.run_models import Model, RunModels, prune_key
from psr_operator.planner.types import Observed
from psr_operator.reasons import Reason
from psr_runtime.config import PrunedModel, PruneStage, StageConfig
from psr_runtime.stages import Makes


def begun(models: RunModels, observed: Observed) -> Model | None:
    """The model whose removal has an attempt that has not ended, None while there is none."""
    for model in models.models:
        if model.weights == "Kept" or model.digest is None:
            continue
        if removal(models, model).is_under_way(take_record(models.run.status, model.name), observed):
            return model
    return None


def removable(models: RunModels) -> list[Model]:
    """Models whose weights are there and are to go, oldest first. Those whose removal has failed are left out."""
    run = models.run
    if run.spec.storage.retention == "All":
        return []
    generation = run.metadata.generation
    failed = {name for name, failure in run.status.unpruned.items() if failure.generation == generation}
    return [
        model
        for model in models.models[:-1]
        if model.digest is not None and model.name not in failed and model.weights != "Pruned"
        if model.weights == "Pruning" or (_is_unread(models, model) and not _is_best(models, model))
    ]


def until_unloaded(models: RunModels, model: Model) -> Summary | None:
    """Why a removal waits: the run's server may still load the weights. None when it may begin."""
    server = gpus.until_unloaded(models.server, model.source)
    if server is None:
        return None
    return Summary(State.WORKING, Reason.PRUNING, f"waiting for {server.ref} to let go of {model.name}")


def removal(models: RunModels, model: Model) -> Lifecycle:
    """The lifecycle of one removal."""
    run, spec = models.run, models.run.spec
    assert model.digest is not None
    configuration: StageConfig = PruneStage(
        output=f"{prefix_of(run)}/{Makes.RETENTION}/m{model.number}",
        storage=spec.storage.access(),
        owner=owner_of(run),
        models=[PrunedModel(uri=model.source.uri, digest=model.digest)],
        retention="Best" if spec.storage.retention == "Best" else "Last",
    )
    placed = placement(run, Resources(), spec.search_pod)
    return Lifecycle(
        name=_name(models, model),
        generation=run.metadata.generation,
        tasks=[Task(prune_key(model.number), "prune", lambda _: (configuration,), Reason.PRUNING, placed)],
        summary=lambda _: f"weights of {model.name} were removed",
        suspend=spec.suspend,
        retries=spec.retries,
        scheduling_deadline=spec.scheduling_deadline_seconds,
    )


def remarks(models: RunModels, status: SelfRewardRunStatus) -> str:
    """What people must know of weights that are there although retention would remove them; empty where there are none.

    Args:
        status: that the present plan gives the run.
    """
    if models.run.spec.storage.retention == "All":
        return ""
    lines = []
    for model in models.models[:-1]:
        failure = status.unpruned.get(model.name)
        stalled = next((item.child for item in model.evaluations if item.is_stalled), None)
        if failure is not None:
            lines.append(f"weights of {model.name} were not removed: {failure.reason}: {failure.message}")
        elif stalled is not None and _is_ours(models, model) and model.weights == "Kept":
            lines.append(f"weights of {model.name} stay, as {stalled.ref} is stalled and may be tried again")
    return "".join(f"; {line}" for line in lines)


def _is_unread(models: RunModels, model: Model) -> bool:
    """Whether a model that has a successor was made by this run and nobody will read it any more."""
    return _is_ours(models, model) and all(item.is_ready for item in model.evaluations)


def _is_ours(models: RunModels, model: Model) -> bool:
    run = models.run
    return (model.number > 1 or run.spec.sft is not None) and model.source.uri.startswith(f"{prefix_of(run)}/")


def _is_best(models: RunModels, model: Model) -> bool:
    """Whether retention keeps a model as the best so far: none that has its weights is better, or as good and newer."""
    spec = models.run.spec
    if spec.storage.retention != "Best":
        return False
    measures = spec.evaluations
    measure = next((item.name for item in measures if item.required), measures[0].name)
    known = [
        (other.accuracy[measure], other.number)
        for other in models.models
        if other.weights == "Kept" and measure in other.accuracy
    ]
    return max(known)[1] == model.number


def _name(models: RunModels, model: Model) -> str:
    return child_name(base_name(models.run), prune_key(model.number))
