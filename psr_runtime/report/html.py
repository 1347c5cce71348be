"""`report.html`: one file that needs nothing else, made from the same numbers as `results.json`.

What stands where is in `report.html.j2`; this module gives the template its values, as texts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from psr_runtime.config import ReportStage
from psr_runtime.data.records import Level, Tree
from psr_runtime.report.figures import Series, bar_chart, line_chart, percent
from psr_runtime.report.oracles import ORACLES, StepOracle
from psr_runtime.report.results import Artefact, Material

VERDICT_CHARACTERS = 600

Row = list[str]


def render(config: ReportStage, material: Material) -> str:
    """The whole page."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(files("psr_runtime.report").joinpath("report.html.j2").read_text("utf-8"))
    models = material.results["models"]
    oracle = ORACLES[config.step_oracle]
    return template.render(
        title=config.title,
        note=config.note,
        models=_model_rows(models),
        evaluations=_evaluation_rows(models),
        figures=[Markup(figure) for figure in _figures(models)],  # made by us, texts in it are escaped
        judge=_judge_columns(models),
        search=_search_columns(models),
        training=_training_columns(models),
        samples={name: [_sample(tree, oracle) for tree in trees] for name, trees in material.samples.items()},
        lineage=[_ancestor(artefact) for artefact in material.artefacts],
        base=_base(material.artefacts),
        oracle=oracle is not None,
        environment=material.results["environment"],
        seeds=material.results["seeds"],
        short=_short,
    )


# --- tables ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Table:
    """A table of facts by model: a heading a column, a row a fact."""

    heads: Row
    rows: list[tuple[str, Row]]


def _model_rows(models: Sequence[Mapping[str, Any]]) -> list[Row]:
    return [
        [
            model["model"],
            _accuracy(model),
            _points(model),
            _text(model["problems"]),
            _text(model["pairs"]),
            *(_text(model["tokens"].get(purpose)) for purpose in ("candidates", "judge", "evaluation", "training")),
            _text(round(sum(model["seconds"].values()), 1) if model["seconds"] else None),
        ]
        for model in models
    ]


def _evaluation_rows(models: Sequence[Mapping[str, Any]]) -> list[Row]:
    """One row an evaluation, for runs with more than one."""
    return [
        [
            name,
            model["model"],
            _accuracy(entry),
            _points(entry),
            *(_text(entry.get(key)) for key in ("correct", "problems", "mean_steps", "mean_step_tokens", "truncated")),
        ]
        for name in _names(models)
        for model in models
        if (entry := model["evaluations"].get(name)) is not None
    ]


def _judge_columns(models: Sequence[Mapping[str, Any]]) -> Table:
    facts = {
        "judge calls": ("verdicts", _text),
        "share of [[A]] among verdicts": ("share_a", _share),
        "without a verdict": ("no_verdict_share", _share),
        "both orders prefer the same step": ("order_agreement", _share),
        "right on the policy’s own candidates": ("accuracy_on_own_candidates", _share),
        "calls with exactly one right step": ("calls_with_one_right_step", _text),
        "right steps among candidates": ("share_of_right_candidates", _share),
    }
    return _table(models, "judge", facts)


def _search_columns(models: Sequence[Mapping[str, Any]]) -> Table:
    names = ("problems", "levels", "candidates", "malformed", "truncated", "unanimous", "ties", "rollbacks")
    table = _table(models, "search", {name: (name, _text) for name in names})
    searched = [model["search"] for model in models if model["search"]]
    outcomes = sorted({name for search in searched for name in search.get("outcomes", {})})
    rows = [
        (f"ended: {name}", [_text(search.get("outcomes", {}).get(name, 0)) for search in searched]) for name in outcomes
    ]
    return Table(table.heads, table.rows + rows)


def _training_columns(models: Sequence[Mapping[str, Any]]) -> Table:
    names = list(dict.fromkeys(name for model in models for name in model["training"]))
    return _table(models, "training", {name.replace("_", " "): (name, _text) for name in names})


def _table(models: Sequence[Mapping[str, Any]], part: str, facts: Mapping[str, tuple[str, Any]]) -> Table:
    """Facts that at least one model has, a column a model that has the part."""
    shown = [model for model in models if model[part]]
    rows = [
        (label, [write(model[part].get(key)) for model in shown])
        for label, (key, write) in facts.items()
        if any(model[part].get(key) is not None for model in shown)
    ]
    return Table([model["model"] for model in shown], rows)


# --- figures -----------------------------------------------------------------------------------------------


def _figures(models: Sequence[Mapping[str, Any]]) -> list[str]:
    labels = [model["model"] for model in models]
    names = _names(models)

    def series(key: str, errors: str | None = None) -> list[Series]:
        return [
            Series(
                name,
                [model["evaluations"].get(name, {}).get(key) for model in models],
                [model["evaluations"].get(name, {}).get(errors) for model in models] if errors else None,
            )
            for name in names
        ]

    figures = []
    if names:
        accuracy = series("accuracy", "standard_error")
        figures.append(line_chart("Accuracy by model, ± one standard error", labels, accuracy, write=percent, top=1.0))
    searched = [model for model in models if model["pairs"] is not None]
    if searched:
        rounds = [f"by {model['model']}" for model in searched]
        pairs = [Series("pairs", [model["pairs"] for model in searched])]
        figures.append(bar_chart("Preference pairs by iteration", rounds, pairs))
    if names:
        figures.append(line_chart("Steps of a solution", labels, series("mean_steps")))
        figures.append(line_chart("Length of a step in tokens", labels, series("mean_step_tokens")))
    return figures


def _names(models: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for model in models for name in model["evaluations"]))


# --- trees -------------------------------------------------------------------------------------------------


def _sample(tree: Tree, oracle: StepOracle | None) -> dict[str, Any]:
    kept = set(tree.kept)
    return {
        "id": tree.problem_id,
        "problem": tree.problem,
        "outcome": tree.outcome,
        "levels": [_level(level, level.number in kept, oracle) for level in tree.levels],
    }


def _level(level: Level, kept: bool, oracle: StepOracle | None) -> dict[str, Any]:
    marks = {level.best: "chosen" if level.worst is not None else "kept", level.worst: "rejected"}
    candidates: dict[int | str, dict[str, Any]] = {}
    for at, (index, candidate, score) in enumerate(zip(level.distinct, level.candidates, level.scores, strict=True)):
        entry = candidates.setdefault(
            index if index is not None else f"fault {at}",
            {
                "name": index + 1 if index is not None else "–",
                "text": candidate.text,
                "score": score,
                "times": 0,
                "mark": "",
                "fault": candidate.fault,
                "right": oracle(candidate.text) if oracle is not None and candidate.fault is None else None,
            },
        )
        entry["times"] += 1
        entry["mark"] = marks.get(at) or entry["mark"]
    return {
        "level": level.level,
        "attempt": level.attempt,
        "kept": kept,
        "decision": level.decision,
        "reason": level.reason,
        "candidates": list(candidates.values()),
        "verdicts": [
            {"a": verdict.a + 1, "b": verdict.b + 1, "choice": verdict.choice, "text": _cut(verdict.text)}
            for verdict in level.verdicts
        ],
    }


# --- lineage -----------------------------------------------------------------------------------------------


def _ancestor(artefact: Artefact) -> dict[str, Any]:
    manifest = artefact.manifest
    return {
        "name": artefact.name,
        "uri": artefact.uri,
        "stage": manifest.stage,
        "digest": manifest.identity,
        "inputs": [(path, entry.uri, entry.digest) for path, entry in manifest.inputs.items()],
        "files": len(manifest.files),
        "versions": ", ".join(f"{name} {version}" for name, version in manifest.versions.items()),
        "configuration": json.dumps(manifest.configuration, indent=1, ensure_ascii=False),
    }


def _base(artefacts: Sequence[Artefact]) -> dict[str, str] | None:
    """M0: the model that the first checkpoint was made from."""
    trained = bool(artefacts) and artefacts[0].manifest.stage in ("sft", "step-dpo")
    entry = artefacts[0].manifest.inputs.get("model.uri") if trained else None
    return {"uri": entry.uri, "digest": entry.digest} if entry else None


# --- texts -------------------------------------------------------------------------------------------------


def _accuracy(entry: Mapping[str, Any]) -> str:
    if entry.get("accuracy") is None:
        return "–"
    return f"{100 * entry['accuracy']:.1f} % ± {100 * entry['standard_error']:.1f}"


def _points(entry: Mapping[str, Any]) -> str:
    if entry.get("difference_to_first") is None:
        return "–"
    return f"{100 * entry['difference_to_first']:+.1f} ± {100 * entry['difference_standard_error']:.1f}"


def _share(value: float | None) -> str:
    return "–" if value is None else percent(value)


def _text(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12]


def _cut(text: str) -> str:
    return text if len(text) <= VERDICT_CHARACTERS else text[:VERDICT_CHARACTERS] + " …"
