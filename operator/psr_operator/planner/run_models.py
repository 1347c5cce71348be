"""What a run has made, as its children tell: its models, their pair sets and accuracies, and the names of the children.

Of a model whose weights were let go the run's own status tells as well: everything that reads it was done by then, so
its children are not made again when somebody deletes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psr_operator.api import Resource, SelfRewardRun
from psr_operator.api.common import Attempts
from psr_operator.api.run import ModelStatus, RunEvaluation
from psr_operator.planner.leaves import prefix_of
from psr_operator.planner.names import child_name
from psr_operator.planner.types import Observed
from psr_runtime.config import ModelSource, ReportedEvaluation, ReportedModel


@dataclass(frozen=True)
class Model:
    """A model of the run that exists: its number i of M(i), source and digest (None for one made elsewhere)."""

    number: int
    source: ModelSource
    digest: str | None

    @property
    def name(self) -> str:
        return f"M{self.number}"


def made_models(run: SelfRewardRun, observed: Observed) -> list[Model]:
    """M1 … as far as they are made."""
    spec = run.spec
    if spec.sft is None:
        first: Model | None = Model(1, spec.model, None)
    else:
        first = _made(run, observed.child("SFTJob", sft_name(run)), 1)
    if first is None:
        return []
    models = [first]
    for number in range(1, len(spec.iterations) + 1):
        following = _made(run, observed.child("SelfRewardIteration", iteration_name(run, number)), number + 1)
        if following is None:
            break
        models.append(following)
    return models


def _made(run: SelfRewardRun, maker: Resource | None, number: int) -> Model | None:
    """The model that a child has made; None while it has not."""
    uri = digest = None
    if maker is not None and maker.status.holds("Ready"):
        uri, digest = maker.status.output, maker.status.digest
    elif (known := known_model(run, number)) is not None and was_made(run, number):
        uri, digest = known.uri, known.digest
    if uri is None:
        return None
    return Model(number, ModelSource(uri=uri, chat_template=run.spec.model.chat_template), digest)


def known_model(run: SelfRewardRun, number: int) -> ModelStatus | None:
    """What the run's status says of a model."""
    return next((item for item in run.status.models if item.name == f"M{number}"), None)


def evaluations(
    run: SelfRewardRun, observed: Observed, models: Sequence[Model], *, required: bool = False
) -> list[Resource]:
    """The evaluations of some models that are there."""
    found = [
        observed.child("ModelEvaluation", evaluation_name(run, model, item))
        for model in models
        for item in run.spec.evaluations
        if item.required or not required
    ]
    return [item for item in found if item is not None]


def over(child: Resource) -> bool:
    """Whether a child has come to its end."""
    return bool(child.status.holds("Ready") or child.status.holds("Stalled"))


def model_status(run: SelfRewardRun, observed: Observed, model: Model) -> ModelStatus:
    """What the run's status is to say of a model."""
    known = known_model(run, model.number) if let_go(run, model.number) else None
    pairs, count = (known.pairs, known.pair_count) if known is not None else (None, None)
    iteration = observed.child("SelfRewardIteration", iteration_name(run, model.number))
    if iteration is not None and iteration.status.pairs is not None:
        pairs, count = iteration.status.pairs, iteration.status.pair_count
    accuracy = dict(known.accuracy) if known is not None else {}
    for item in run.spec.evaluations:
        child = observed.child("ModelEvaluation", evaluation_name(run, model, item))
        if child is not None and child.status.holds("Ready"):
            accuracy[item.name] = float(child.status.done["evaluate"]["accuracy"])
    return ModelStatus(
        name=model.name,
        uri=model.source.uri,
        digest=model.digest,
        pairs=pairs,
        pair_count=count,
        accuracy=accuracy,
        weights="Pruned" if is_pruned(run, model.number) else "Pruning" if let_go(run, model.number) else "Kept",
    )


def reported(run: SelfRewardRun, observed: Observed, model: Model) -> ReportedModel:
    """What the report is told of a model."""
    status = model_status(run, observed, model)
    found = []
    for item in run.spec.evaluations:
        child = observed.child("ModelEvaluation", evaluation_name(run, model, item))
        uri = evaluation_output(run, model, item)
        if child is not None and child.status.holds("Ready") and child.status.output is not None:
            uri = child.status.output
        if item.name in status.accuracy:
            found.append(ReportedEvaluation(name=item.name, uri=uri))
    return ReportedModel(name=model.name, checkpoint=model.source.uri, pairs=status.pairs, evaluations=found)


# --- weights that were let go ------------------------------------------------------------------------------


def let_go(run: SelfRewardRun, number: int) -> bool:
    """Whether the removal of M(i)'s weights was ever begun: then nobody may count on them."""
    return run.status.attempts.get(prune_key(number), Attempts()).attempt > 0 or is_pruned(run, number)


def was_made(run: SelfRewardRun, number: int) -> bool:
    """Whether M(i) must have been made, whatever its maker says now: its weights or its parent's were let go."""
    return let_go(run, number) or let_go(run, number - 1)


def is_pruned(run: SelfRewardRun, number: int) -> bool:
    """Whether the weights of M(i) were removed."""
    return prune_key(number) in run.status.done


def prune_key(number: int) -> str:
    """The step in the run's status that removes the weights of M(i)."""
    return f"prune-m{number}"


# --- names -------------------------------------------------------------------------------------------------


def sft_name(run: SelfRewardRun) -> str:
    return child_name(run.metadata.name, "sft")


def iteration_name(run: SelfRewardRun, number: int) -> str:
    return child_name(run.metadata.name, number)


def evaluation_name(run: SelfRewardRun, model: Model, item: RunEvaluation) -> str:
    return child_name(run.metadata.name, f"m{model.number}", item.name)


def evaluation_output(run: SelfRewardRun, model: Model, item: RunEvaluation) -> str:
    return f"{prefix_of(run)}/evaluations/m{model.number}/{item.name}"


def server_name(run: SelfRewardRun) -> str:
    return child_name(run.metadata.name, "server")
