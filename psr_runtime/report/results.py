"""`results.json`: what a run's artefacts say, model by model.

The numbers of searches and trainings are those of their manifests; errors, ties and the judge's success are added.
Seconds and environment differ from run to run and stand nowhere else.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from psr_runtime.artefacts.fetching import read_file
from psr_runtime.artefacts.manifest import Manifest, digest_of_input, read_manifest, require_manifest
from psr_runtime.config import ReportedEvaluation, ReportedModel, ReportStage
from psr_runtime.config.results import EvaluateResult, PairSetResult, TrainingResult
from psr_runtime.data.reading import parse_records
from psr_runtime.data.records import Prediction, Tree
from psr_runtime.protocol.errors import InputMissing
from psr_runtime.report.oracles import ORACLES, StepOracle
from psr_runtime.report.statistics import Estimate, Round, accuracy, difference, summarise
from psr_runtime.stage import TIMINGS, versions
from psr_runtime.stages import Makes, makers
from psr_runtime.storage import Storage, join

DIGITS = 6
SAMPLES = 2
"""Trees shown of each round."""


@dataclass(frozen=True)
class Artefact:
    """One artefact of the run, for the lineage.

    Attributes:
        name: what it is to the run: `M2`, `pairs of M1`.
        uri: where it lies.
        manifest: what its manifest says.
    """

    name: str
    uri: str
    manifest: Manifest


@dataclass(frozen=True)
class PairSet:
    """The pair set of one round.

    Attributes:
        result: what its search said at the end.
        counted: what is counted here over its trees.
    """

    manifest: Manifest
    result: PairSetResult
    counted: Round

    @classmethod
    def read(cls, storage: Storage, uri: str, oracle: StepOracle | None) -> PairSet:
        """Read the pair set at `uri` and go through its trees once."""
        manifest = require_manifest(storage, uri, ("merge", "search"))
        counted = summarise(_trees(storage, uri), oracle, SAMPLES)
        return cls(manifest, PairSetResult.model_validate(manifest.result), counted)


@dataclass(frozen=True)
class Material:
    """All that the report shows.

    Attributes:
        results: content of `results.json`.
        samples: a few finished searches, by the model that made them.
        artefacts: checkpoints, pair sets and evaluations in the order of the run.
    """

    results: dict[str, Any]
    samples: dict[str, list[Tree]]
    artefacts: list[Artefact]


def collect(config: ReportStage, storage: Storage) -> Material:
    """Read a run's artefacts.

    Raises:
        InputMissing: an artefact is not there.
        DataError: one was made by another stage than its place asks for, or a line of it is broken.
    """
    oracle = ORACLES[config.step_oracle]
    samples: dict[str, list[Tree]] = {}
    artefacts: list[Artefact] = []
    models: list[dict[str, Any]] = []
    first: dict[str, dict[str, bool]] = {}
    for model in config.models:
        checkpoint = _checkpoint(storage, model.checkpoint, first=not models)
        if checkpoint is not None:
            artefacts.append(Artefact(model.name, model.checkpoint, checkpoint))
        evaluations = {}
        for evaluation in model.evaluations:
            manifest = require_manifest(storage, evaluation.uri, makers(Makes.EVALUATION))
            artefacts.append(Artefact(f"{evaluation.name} of {model.name}", evaluation.uri, manifest))
            answers = _answers(storage, evaluation)
            evaluations[evaluation.name] = _evaluation(
                manifest, answers, first.get(evaluation.name) if models else None
            )
            first.setdefault(evaluation.name, answers)
        pair_set = None
        if model.pairs is not None:
            pair_set = PairSet.read(storage, model.pairs, oracle)
            artefacts.append(Artefact(f"pairs of {model.name}", model.pairs, pair_set.manifest))
            samples[model.name] = pair_set.counted.samples
        models.append(
            {
                "model": model.name,
                **_head(evaluations),
                "pairs": pair_set.result.pairs if pair_set else None,
                "tokens": _tokens(evaluations, pair_set, checkpoint),
                "judge": _judge(pair_set, with_oracle=oracle is not None) if pair_set else None,
                "search": _search(pair_set) if pair_set else None,
                "training": checkpoint.result if checkpoint is not None else {},
                "evaluations": evaluations,
                "seconds": _seconds(storage, model, checkpoint, pair_set),
                "digest": (
                    checkpoint.identity if checkpoint is not None else digest_of_input(storage, model.checkpoint)
                ),
            }
        )
    results = {
        "title": config.title,
        "models": models,
        "controls": {},
        "environment": environment(),
        "seeds": {"run": config.seed},
    }
    return Material(results, samples, artefacts)


def environment() -> dict[str, Any]:
    """The machine that wrote the report, and the versions of what decides a result."""
    return {
        "python": platform.python_version(),
        "versions": versions(),
        "cpus": os.cpu_count(),
        "platform": platform.platform(),
    }


def _checkpoint(storage: Storage, uri: str, *, first: bool) -> Manifest | None:
    """Manifest of a model's checkpoint; None for the first model where it was made elsewhere."""
    if first and read_manifest(storage, uri) is None:
        return None
    return require_manifest(storage, uri, makers(Makes.CHECKPOINT))


def _answers(storage: Storage, evaluation: ReportedEvaluation) -> dict[str, bool]:
    text = read_file(storage, evaluation.uri, "predictions.jsonl").decode("utf-8")
    predictions = parse_records(text, join(evaluation.uri, "predictions.jsonl"), Prediction)
    return {prediction.id: prediction.correct for prediction in predictions}


def _trees(storage: Storage, uri: str) -> Iterator[Tree]:
    text = read_file(storage, uri, "trees.jsonl").decode("utf-8")
    return parse_records(text, join(uri, "trees.jsonl"), Tree, empty=True)


def _evaluation(manifest: Manifest, answers: Mapping[str, bool], first: Mapping[str, bool] | None) -> dict[str, Any]:
    """An evaluation's own numbers, its error, and the difference to the first model."""
    share = accuracy(sum(answers.values()), len(answers))
    change = difference(answers, first) if first else None
    return {
        **manifest.result,
        "accuracy": round(share.value, DIGITS),
        "standard_error": round(share.standard_error, DIGITS),
        **_difference(change),
    }


def _difference(change: Estimate | None) -> dict[str, float | None]:
    return {
        "difference_to_first": round(change.value, DIGITS) if change else None,
        "difference_standard_error": round(change.standard_error, DIGITS) if change else None,
    }


def _head(evaluations: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The first evaluation's numbers stand with the model itself."""
    names = ("accuracy", "standard_error", "difference_to_first", "difference_standard_error", "correct", "problems")
    main = next(iter(evaluations.values()), {})
    return {name: main.get(name) for name in names}


def _tokens(
    evaluations: Mapping[str, Mapping[str, Any]], pair_set: PairSet | None, checkpoint: Manifest | None
) -> dict[str, int]:
    """Sampled tokens by purpose, and the tokens that this model was trained on."""
    tokens = {}
    if checkpoint is not None:
        tokens["training"] = TrainingResult.model_validate(checkpoint.result).tokens
    if pair_set is not None:
        tokens["candidates"] = pair_set.result.candidate_tokens
        tokens["judge"] = pair_set.result.judge_tokens
    if evaluations:
        tokens["evaluation"] = sum(EvaluateResult.model_validate(item).tokens for item in evaluations.values())
    return tokens


def _judge(pair_set: PairSet, *, with_oracle: bool) -> dict[str, Any]:
    """The round's judge; `with_oracle`: an oracle has said which steps are right."""
    result, counted = pair_set.result, pair_set.counted
    judge: dict[str, Any] = {
        "verdicts": result.verdicts,
        "share_a": result.share_a,
        "no_verdict": result.no_verdict,
        "no_verdict_share": _share(result.no_verdict, result.verdicts),
        "order_agreement": result.agreement,
    }
    if with_oracle:
        judge |= {
            "accuracy_on_own_candidates": _share(counted.calls_right, counted.calls),
            "calls_with_one_right_step": counted.calls,
            "share_of_right_candidates": _share(counted.steps_right, counted.steps),
        }
    return judge


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, DIGITS) if whole else None


def _search(pair_set: PairSet) -> dict[str, Any]:
    result = pair_set.result
    return {
        "problems": result.problems,
        "levels": result.levels,
        "candidates": result.candidates,
        "malformed": result.malformed,
        "truncated": result.truncated,
        "unanimous": result.unanimous,
        "rollbacks": result.rollbacks,
        "outcomes": result.outcomes,
        "ties": pair_set.counted.ties,
    }


def _seconds(
    storage: Storage, model: ReportedModel, checkpoint: Manifest | None, pair_set: PairSet | None
) -> dict[str, float]:
    """Seconds by stage, of the attempts that finished; stages that left no time are left out."""
    places = {
        **({checkpoint.stage: [model.checkpoint]} if checkpoint is not None else {}),
        "search": [] if pair_set is None or model.pairs is None else [model.pairs, *_parts(pair_set.manifest)],
        "evaluate": [evaluation.uri for evaluation in model.evaluations],
    }
    seconds = {}
    for stage, uris in places.items():
        times = [time for uri in uris if (time := _timing(storage, uri)) is not None]
        if times:
            seconds[stage] = round(sum(times), 3)
    return seconds


def _parts(pair_set: Manifest) -> list[str]:
    return [entry.uri for entry in pair_set.inputs.values()] if pair_set.stage == "merge" else []


def _timing(storage: Storage, uri: str) -> float | None:
    try:
        return float(json.loads(storage.read(join(uri, TIMINGS)))["seconds"])
    except InputMissing:
        return None
