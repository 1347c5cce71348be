"""Which models of a run keep their weights, and the work that removes the others'.

The weights of M(i) go once M(i+1) is made, every evaluation of M(i) is Ready, and no server can still be loading them.
An evaluation that is Stalled keeps them: another try would need them. All of that stays true once it is, so whoever
reads M(i) has ended for good before the removal is begun. It is work of the run's own, one model at a time, beside the
rounds; one that fails for good is told and stops nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from psr_operator.api import PolicyServer, SelfRewardRun
from psr_operator.api.common import Attempts, Resources
from psr_operator.api.run import SelfRewardRunStatus
from psr_operator.conditions import State, Summary
from psr_operator.planner.leaves import owner_of, prefix_of
from psr_operator.planner.lifecycle import Life, Moment, Step, live
from psr_operator.planner.names import child_name
from psr_operator.planner.placement import placement
from psr_operator.planner.run_models import (
    Model,
    evaluations,
    is_pruned,
    let_go,
    model_status,
    prune_key,
    server_name,
)
from psr_operator.planner.types import Observed
from psr_runtime.config import PrunedModel, PruneStage, StageConfig


def under_way(run: SelfRewardRun, observed: Observed, models: Sequence[Model]) -> Model | None:
    """The model whose removal has an attempt that is not over, None while there is none."""
    for model in models:
        attempts = run.status.attempts.get(prune_key(model.number), Attempts())
        state = observed.workload(child_name(_name(run, model), f"a{attempts.attempt}"))
        if attempts.open or (state is not None and not state.gone):
            return model
    return None


def due(run: SelfRewardRun, observed: Observed, models: Sequence[Model]) -> list[Model]:
    """Models whose weights are there and are to go, oldest first. Those whose removal has failed are left out."""
    if run.spec.storage.retention == "All":
        return []
    generation = run.metadata.generation
    failed = {name for name, failure in run.status.unpruned.items() if failure.generation == generation}
    return [
        model
        for model in models[:-1]
        if model.digest is not None and model.name not in failed and not is_pruned(run, model.number)
        if let_go(run, model.number) or (_unread(run, observed, model) and not _best(run, observed, models, model))
    ]


def removal(run: SelfRewardRun, observed: Observed, model: Model, now: datetime) -> Moment:
    """The life of one removal. In the status that it gives, what belongs to the report's is untouched."""
    status = run.status
    mine = status.model_copy(update={"failure": status.unpruned.get(model.name)})
    meta = run.metadata.model_copy(update={"name": _name(run, model)})
    named = run.model_copy(update={"metadata": meta, "status": mine})
    moment = live(_life(run, named, model), observed, now)
    found = {name: failure for name, failure in status.unpruned.items() if name != model.name}
    if moment.status.failure is not None:
        found[model.name] = moment.status.failure
    theirs = {"failure": status.failure, "output": status.output, "digest": status.digest, "unpruned": found}
    return replace(moment, status=moment.status.model_copy(update=theirs))


def serving(run: SelfRewardRun, observed: Observed, model: Model) -> Summary | None:
    """How a run stands that waits for its server to let go of a model's weights; None when it has.

    A server that is wanted with another model has let go once every replica serves that, one that is not wanted once
    nothing of it is left.
    """
    server = observed.child("PolicyServer", server_name(run))
    if not isinstance(server, PolicyServer):
        return None
    spec, status = server.spec, server.status
    known = status.observed_generation == server.metadata.generation  # else its status tells of an earlier spec
    gone = not spec.active and not status.holds("Reconciling")
    elsewhere = spec.active and spec.model.uri != model.source.uri and status.model == spec.model.uri
    if known and (gone or elsewhere):
        return None
    return Summary(State.WORKING, "Pruning", f"waiting for {server.ref} to let go of {model.name}")


def told(run: SelfRewardRun, observed: Observed, models: Sequence[Model], status: SelfRewardRunStatus) -> str:
    """What people must know of weights that are there although retention lets them go; empty where there are none."""
    if run.spec.storage.retention == "All":
        return ""
    found = []
    for model in models[:-1]:
        failure = status.unpruned.get(model.name)
        stalled = next((item for item in evaluations(run, observed, [model]) if item.status.holds("Stalled")), None)
        if failure is not None:
            found.append(f"weights of {model.name} were not removed: {failure.reason}: {failure.message}")
        elif stalled is not None and _is_ours(run, model) and not let_go(run, model.number):
            found.append(f"weights of {model.name} stay, as {stalled.ref} is stalled and may be tried again")
    return "".join(f"; {item}" for item in found)


def _unread(run: SelfRewardRun, observed: Observed, model: Model) -> bool:
    """Whether a model that has a successor was made by this run and nobody will read it any more."""
    found = evaluations(run, observed, [model])
    ready = sum(item.status.holds("Ready") for item in found)
    return _is_ours(run, model) and ready == len(run.spec.evaluations)


def _is_ours(run: SelfRewardRun, model: Model) -> bool:
    return (model.number > 1 or run.spec.sft is not None) and model.source.uri.startswith(f"{prefix_of(run)}/")


def _best(run: SelfRewardRun, observed: Observed, models: Sequence[Model], model: Model) -> bool:
    """Whether retention keeps a model as the best so far: none that has its weights is better, or as good and newer."""
    if run.spec.storage.retention != "Best":
        return False
    measures = run.spec.evaluations
    measure = next((item.name for item in measures if item.required), measures[0].name)
    known = {
        other.number: accuracy
        for other in models
        if not let_go(run, other.number)
        and (accuracy := model_status(run, observed, other).accuracy.get(measure)) is not None
    }
    return max((accuracy, number) for number, accuracy in known.items())[1] == model.number


def _life(run: SelfRewardRun, named: SelfRewardRun, model: Model) -> Life:
    spec = run.spec
    assert model.digest is not None
    pruned = PrunedModel(uri=model.source.uri, digest=model.digest)
    configuration: StageConfig = PruneStage(
        output=f"{prefix_of(run)}/retention/m{model.number}",
        storage=spec.storage.access(),
        owner=owner_of(run),
        models=[pruned],
        retention="Best" if spec.storage.retention == "Best" else "Last",
    )
    key = prune_key(model.number)
    step = Step(key, "prune", lambda _: (configuration,), "Pruning", placement(run, Resources(), spec.search_pod))

    def summary(done: dict[str, dict[str, Any]]) -> str:
        return f"weights of {model.name} were removed"

    return Life(named, [step], spec.suspend, spec.retries, None, None, summary, spec.scheduling_deadline_seconds)


def _name(run: SelfRewardRun, model: Model) -> str:
    return child_name(run.metadata.name, prune_key(model.number))
