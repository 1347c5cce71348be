"""A run's models, from its children and its status: worked out once a plan, and passed on to whoever asks.

A model whose weights were pruned is known from the run's own status as well: everything that reads it had ended by
then, so its children are not made again when somebody deletes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from psr_operator.api import ModelEvaluation, PolicyServer, SelfRewardIteration, SelfRewardRun, SFTJob
from psr_operator.api.run import ModelStatus, RunEvaluation, SelfRewardRunStatus
from psr_operator.planner.inheritance import prefix_of
from psr_operator.planner.names import base_name, child_name
from psr_operator.planner.parents import has_ended
from psr_operator.planner.results import evaluate_result
from psr_operator.planner.types import Observed
from psr_runtime.config import ModelSource, ReportedEvaluation, ReportedModel

Weights = Literal["Kept", "Pruning", "Pruned"]


@dataclass(frozen=True)
class Evaluation:
    """An evaluation of a model of a run.

    Attributes:
        spec: as the run wants it.
        name: of the ModelEvaluation.
        output: where it goes.
        child: the ModelEvaluation, None for one that is not there.
    """

    spec: RunEvaluation
    name: str
    output: str
    child: ModelEvaluation | None

    @property
    def is_ready(self) -> bool:
        """Whether its accuracy is known."""
        return self.child is not None and self.child.status.holds("Ready")

    @property
    def is_stalled(self) -> bool:
        """Whether it has failed for good."""
        return self.child is not None and self.child.status.holds("Stalled")


@dataclass(frozen=True)
class Model:
    """A model of the run that exists.

    Attributes:
        number: i of M(i).
        digest: None for a model that was made elsewhere.
        weights: whether they are there; Pruning: their removal was begun, and nobody may count on them.
        iteration: the round that improves it, None for one that is not there.
        evaluations: in the order of the spec.
        pairs, pair_count: that it has generated.
        accuracy: by evaluation, as far as it is known.
    """

    number: int
    source: ModelSource
    digest: str | None
    weights: Weights
    iteration: SelfRewardIteration | None
    evaluations: tuple[Evaluation, ...]
    pairs: str | None
    pair_count: int | None
    accuracy: Mapping[str, float]

    @property
    def name(self) -> str:
        return f"M{self.number}"

    @property
    def lacks_evaluations(self) -> bool:
        """Whether evaluations are still to be made; what was deleted after the weights went is not."""
        return self.weights == "Kept" and any(item.child is None for item in self.evaluations)

    @property
    def unfinished_evaluations(self) -> list[ModelEvaluation]:
        """The evaluations that are there and have not come to their end."""
        return [item.child for item in self.evaluations if item.child is not None and not has_ended(item.child)]

    def status(self, after: SelfRewardRunStatus) -> ModelStatus:
        """What the run's status is to say of it.

        Args:
            after: the status that the present plan gives the run.
        """
        return ModelStatus(
            name=self.name,
            uri=self.source.uri,
            digest=self.digest,
            pairs=self.pairs,
            pair_count=self.pair_count,
            accuracy=dict(self.accuracy),
            weights=weights_of(after, self.number),
        )

    def reported(self) -> ReportedModel:
        """What the report is to say of it."""
        evaluations = [
            ReportedEvaluation(name=item.spec.name, uri=_output_of(item))
            for item in self.evaluations
            if item.spec.name in self.accuracy
        ]
        return ReportedModel(name=self.name, checkpoint=self.source.uri, pairs=self.pairs, evaluations=evaluations)


@dataclass(frozen=True)
class RunModels:
    """A run with its models and the children that make them.

    Attributes:
        models: M1 … as far as they are made.
        sft: the child that makes M1, None where it is not there.
        server: the run's one PolicyServer, None where it is not there.
        is_stuck: whether a round has failed for good.
    """

    run: SelfRewardRun
    models: tuple[Model, ...]
    sft: SFTJob | None
    server: PolicyServer | None
    is_stuck: bool

    @property
    def newest(self) -> Model | None:
        """The last model; None while there is none."""
        return self.models[-1] if self.models else None

    @property
    def are_complete(self) -> bool:
        """Whether every round of the run has made its model."""
        return len(self.models) == len(self.run.spec.iterations) + 1

    def has_round(self, model: Model) -> bool:
        """Whether a round of the run is to improve a model."""
        return model.number <= len(self.run.spec.iterations)

    def must_exist(self, number: int) -> bool:
        """Whether M(i) must have been made, whatever its maker is now: its weights or its parent's were pruned."""
        return _must_exist(self.run.status, number)


def run_models(run: SelfRewardRun, observed: Observed) -> RunModels:
    """Work out a run's models. Each child is looked up once."""
    sft = server = None
    if run.spec.sft is not None:
        child = observed.child("SFTJob", sft_name(run))
        sft = child if isinstance(child, SFTJob) else None
    child = observed.child("PolicyServer", server_name(run))
    server = child if isinstance(child, PolicyServer) else None
    models = []
    artefact = (run.spec.model.uri, None) if run.spec.sft is None else _artefact(run, sft, 1)
    number = 1
    while artefact is not None:
        iteration = None
        if number <= len(run.spec.iterations):
            child = observed.child("SelfRewardIteration", iteration_name(run, number))
            iteration = child if isinstance(child, SelfRewardIteration) else None
        models.append(_model(run, observed, number, artefact, iteration))
        number += 1
        artefact = _artefact(run, iteration, number) if number <= len(run.spec.iterations) + 1 else None
    rounds = [item for item in observed.children if item.kind == "SelfRewardIteration"]
    is_stuck = any(item.status.holds("Stalled") for item in rounds)
    return RunModels(run, tuple(models), sft, server, is_stuck)


def _artefact(
    run: SelfRewardRun, maker: SFTJob | SelfRewardIteration | None, number: int
) -> tuple[str, str | None] | None:
    """URI and digest of a model that the run has made; None while it has not."""
    uri = digest = None
    if maker is not None and maker.status.holds("Ready"):
        uri, digest = maker.status.output, maker.status.digest
    elif _must_exist(run.status, number) and (stored := _stored(run, number)) is not None:
        uri, digest = stored.uri, stored.digest
    return (uri, digest) if uri is not None else None


def _model(
    run: SelfRewardRun,
    observed: Observed,
    number: int,
    artefact: tuple[str, str | None],
    iteration: SelfRewardIteration | None,
) -> Model:
    uri, digest = artefact
    weights = weights_of(run.status, number)
    stored = _stored(run, number) if weights != "Kept" else None
    pairs, pair_count = (stored.pairs, stored.pair_count) if stored is not None else (None, None)
    if iteration is not None and iteration.status.pairs is not None:
        pairs, pair_count = iteration.status.pairs, iteration.status.pair_count
    evaluations = tuple(_evaluation(run, observed, number, item) for item in run.spec.evaluations)
    accuracy = dict(stored.accuracy) if stored is not None else {}
    for item in evaluations:
        if item.child is not None and item.is_ready:
            accuracy[item.spec.name] = evaluate_result(item.child.status.done).accuracy
    own = run.spec.sft is None and number == 1
    source = run.spec.model if own else ModelSource(uri=uri, chat_template=run.spec.model.chat_template)
    return Model(number, source, digest, weights, iteration, evaluations, pairs, pair_count, accuracy)


def _evaluation(run: SelfRewardRun, observed: Observed, number: int, spec: RunEvaluation) -> Evaluation:
    name = child_name(base_name(run), f"m{number}", spec.name)
    child = observed.child("ModelEvaluation", name)
    output = f"{prefix_of(run)}/evaluations/m{number}/{spec.name}"
    return Evaluation(spec, name, output, child if isinstance(child, ModelEvaluation) else None)


def _output_of(evaluation: Evaluation) -> str:
    child = evaluation.child
    if child is not None and child.status.holds("Ready") and child.status.output is not None:
        return child.status.output
    return evaluation.output


def _stored(run: SelfRewardRun, number: int) -> ModelStatus | None:
    """What the run's status says of a model."""
    return next((item for item in run.status.models if item.name == f"M{number}"), None)


# --- pruned weights ----------------------------------------------------------------------------------------


def weights_of(status: SelfRewardRunStatus, number: int) -> Weights:
    """Whether the weights of M(i) are there, as the attempts and results of their removal say."""
    key = prune_key(number)
    if key in status.done:
        return "Pruned"
    attempts = status.attempts.get(key)
    return "Pruning" if attempts is not None and attempts.attempt > 0 else "Kept"


def _must_exist(status: SelfRewardRunStatus, number: int) -> bool:
    return any(weights_of(status, item) != "Kept" for item in (number, number - 1))


def prune_key(number: int) -> str:
    """The task in the run's status that removes the weights of M(i)."""
    return f"prune-m{number}"


# --- names -------------------------------------------------------------------------------------------------


def sft_name(run: SelfRewardRun) -> str:
    """Name of the SFTJob of a run."""
    return child_name(base_name(run), "sft")


def iteration_name(run: SelfRewardRun, number: int) -> str:
    """Name of the round that improves M(i)."""
    return child_name(base_name(run), number)


def server_name(run: SelfRewardRun) -> str:
    """Name of the run's one PolicyServer."""
    return child_name(base_name(run), "server")
