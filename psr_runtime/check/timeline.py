"""The estimate for people: one line in all, or a table of the stages."""

from __future__ import annotations

from collections.abc import Sequence

from psr_runtime.check.engine import Report
from psr_runtime.check.estimate import Effort
from psr_runtime.check.sizes import readable

ASSUMED = "assumed"
"""Stands beside every figure that no measurement backs."""
HEAD = ("stage", "tokens", "moved", f"seconds ({ASSUMED})", f"bottleneck ({ASSUMED})", "arithmetic")


def summary(report: Report, price: float | None = None) -> str:
    """All stages in one line.

    Args:
        price: of an hour of one GPU.
    """
    stages = report.stages
    seconds = sum(item.seconds for item in stages)
    hours = sum(item.seconds * item.gpus for item in stages) / 3600
    money = f", {hours * price:.2f} at {price:g} an hour" if price is not None else ""
    return (
        f"estimate: {_count(sum(item.sampled for item in stages))} tokens sampled, "
        f"{_count(sum(item.read for item in stages))} read, {_count(sum(item.trained for item in stages))} trained; "
        f"{readable(sum(item.moved for item in stages))} moved; about {_time(seconds)} and {hours:.3g} GPU hours on "
        f"{report.device.name}{money} ({ASSUMED})"
    )


def timeline(report: Report) -> str:
    """Stage by stage, with what the time of each goes to."""
    rows = [HEAD, *(_row(item) for item in report.stages)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def total_tokens(stages: Sequence[Effort]) -> int:
    """Sampled and trained tokens of all stages."""
    return round(sum(item.tokens for item in stages))


def _row(item: Effort) -> tuple[str, ...]:
    tokens = _count(item.tokens) if item.tokens else "–"
    moved = readable(item.moved) if item.moved else "–"
    return item.name, tokens, moved, _time(item.seconds), item.bottleneck or "unknown", item.arithmetic


def _count(number: float) -> str:
    for unit, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= scale:
            return f"{number / scale:.3g} {unit}"
    return f"{number:.0f}"


def _time(seconds: float) -> str:
    if seconds >= 7200:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 120 else f"{seconds:.1f} s"
