"""Results beside results: control runs merged into `results.json`, and the table that a terminal shows. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

COLUMNS = (("model", 13), ("accuracy", 10), ("s.e.", 6), ("vs first", 10), ("pairs", 7), ("judge", 8))
"""Headings of the table and their widths; with `tokens` and `seconds` they fill 80 columns."""


def with_controls(results: Mapping[str, Any], controls: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """`results` with control runs under `controls`.

    Args:
        results: `results.json` of the run.
        controls: name of a control -> `results.json` of a run that started from the same first model.

    Returns:
        A new object. Each control has its `models`, and `difference`: the accuracy of its last model minus that of
        the run's first model.
    """
    first = results["models"][0]["accuracy"]
    merged = dict(results.get("controls", {}))
    for name, control in controls.items():
        models = [
            {key: model.get(key) for key in ("model", "accuracy", "standard_error", "problems", "pairs", "judge")}
            for model in control["models"]
        ]
        known = [model["accuracy"] for model in models if model["accuracy"] is not None]
        change = round(known[-1] - first, 6) if known and first is not None else None
        merged[name] = {"models": models, "difference": change}
    return {**results, "controls": merged}


def table(results: Mapping[str, Any]) -> str:
    """A run's results as plain text, at most 80 columns: a row a model, then a row a model of each control.

    Accuracy and its error are in percent, differences in points; `judge` is the share of right verdicts on the
    policy's own candidates, `tokens` what was sampled in search and evaluation, `seconds` all stages of a model.
    """
    first = results["models"][0].get("accuracy")
    lines = ["".join(f"{name:>{width}}" for name, width in (*COLUMNS, ("tokens", 13), ("seconds", 10))).rstrip()]
    lines += [_row(model["model"], model, first if at else None) for at, model in enumerate(results["models"])]
    for name, control in results.get("controls", {}).items():
        for model in control["models"]:
            if model["model"] != results["models"][0]["model"]:
                lines.append(_row(f"{name} {model['model']}", model, first))
    return "\n".join(lines) + "\n"


def _row(name: str, model: Mapping[str, Any], first: float | None) -> str:
    accuracy = model.get("accuracy")
    tokens = sum(count for purpose, count in (model.get("tokens") or {}).items() if purpose != "training")
    seconds = sum((model.get("seconds") or {}).values())
    cells = (
        name[:13],
        _percent(accuracy),
        _number(model.get("standard_error"), 100, ".1f"),
        _number(accuracy - first if accuracy is not None and first is not None else None, 100, "+.1f"),
        _number(model.get("pairs"), 1, ",.0f"),
        _percent((model.get("judge") or {}).get("accuracy_on_own_candidates")),
        _number(tokens or None, 1, ",.0f"),
        _number(seconds or None, 1, ",.1f"),
    )
    widths = (*(width for _, width in COLUMNS), 13, 10)
    return "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True)).rstrip()


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _number(value: float | None, factor: int, form: str) -> str:
    return "" if value is None else format(value * factor, form)
