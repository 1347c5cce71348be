"""Figures as inline SVG: plain strings, no script, colours from the page's style sheet.

Every figure has a title and a description for screen readers, and its values written at the marks, so that nothing is
told by colour alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 640, 260
LEFT, RIGHT, TOP, BOTTOM = 56, 20, 24, 36
SERIES_CLASSES = ("s0", "s1", "s2", "s3", "s4", "s5")


@dataclass(frozen=True)
class Series:
    """Values over the figure's labels; None where there is none.

    Attributes:
        errors: half the length of each error bar, or None for no bars.
    """

    name: str
    values: Sequence[float | None]
    errors: Sequence[float | None] | None = None


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def plain(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:,.2f}"


def line_chart(
    title: str,
    labels: Sequence[str],
    series: Sequence[Series],
    *,
    write: Callable[[float], str] = plain,
    top: float | None = None,
) -> str:
    """Lines with marks and error bars over labels, from zero up.

    Args:
        write: how a value is written at its mark and at the axis.
        top: upper end of the axis. Unset: the largest value, rounded up.
    """
    top = top if top is not None else _round_up(max(_heights(series), default=1.0))
    parts = [_axes(labels, top, write)]
    for index, one in enumerate(series):
        mark = SERIES_CLASSES[index % len(SERIES_CLASSES)]
        errors = one.errors or [None] * len(one.values)
        points = [
            (_x(at, len(labels)), _y(value, top), value, error)
            for at, (value, error) in enumerate(zip(one.values, errors, strict=True))
            if value is not None
        ]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _, _ in points)
        parts.append(f'<polyline class="line {mark}" points="{path}"/>')
        for x, y, value, error in points:
            if error:
                low, high = _y(max(value - error, 0), top), _y(min(value + error, top), top)
                parts.append(f'<path class="error {mark}" d="M{x:.1f} {low:.1f}V{high:.1f}"/>')
            parts.append(f'<circle class="mark {mark}" cx="{x:.1f}" cy="{y:.1f}" r="4"/>')
            below = y < TOP + 16
            parts.append(_text(x, y + 20 if below else y - 10, write(value), "value"))
    return _figure(title, labels, series, parts, write)


def bar_chart(
    title: str, labels: Sequence[str], series: Sequence[Series], *, write: Callable[[float], str] = plain
) -> str:
    """Bars over labels, side by side where there are several series."""
    top = _round_up(max(_heights(series), default=1.0))
    parts = [_axes(labels, top, write)]
    group = 0.6 * (WIDTH - LEFT - RIGHT) / max(len(labels), 1)
    width = min(group / max(len(series), 1), 70.0)
    for index, one in enumerate(series):
        mark = SERIES_CLASSES[index % len(SERIES_CLASSES)]
        for at, value in enumerate(one.values):
            if value is None:
                continue
            x = _x(at, len(labels)) + (index - len(series) / 2) * width
            y = _y(value, top)
            parts.append(
                f'<rect class="bar {mark}" x="{x + 2:.1f}" y="{y:.1f}" width="{width - 4:.1f}" '
                f'height="{HEIGHT - BOTTOM - y:.1f}"/>'
            )
            parts.append(_text(x + width / 2, y - 6, write(value), "value"))
    return _figure(title, labels, series, parts, write)


def _figure(
    title: str, labels: Sequence[str], series: Sequence[Series], parts: list[str], write: Callable[[float], str]
) -> str:
    summary = "; ".join(
        f"{one.name}: "
        + ", ".join(
            f"{label} {write(value)}" for label, value in zip(labels, one.values, strict=True) if value is not None
        )
        for one in series
    )
    legend = ""
    if len(series) > 1:
        legend = "".join(
            f'<li><i class="key {SERIES_CLASSES[at % len(SERIES_CLASSES)]}"></i>{escape(one.name)}</li>'
            for at, one in enumerate(series)
        )
        legend = f'<ul class="legend">{legend}</ul>'
    return (
        f"<figure><figcaption>{escape(title)}</figcaption>{legend}"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img"><title>{escape(title)}</title><desc>{escape(summary)}</desc>'
        f"{''.join(parts)}</svg></figure>"
    )


def _axes(labels: Sequence[str], top: float, write: Callable[[float], str]) -> str:
    parts = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = _y(share * top, top)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(_text(LEFT - 6, y + 4, write(share * top), "tick"))
    parts += [_text(_x(at, len(labels)), HEIGHT - 12, label, "label") for at, label in enumerate(labels)]
    return "".join(parts)


def _text(x: float, y: float, text: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'


def _x(at: int, count: int) -> float:
    """Middle of the place of label `at`."""
    return LEFT + (at + 0.5) * (WIDTH - LEFT - RIGHT) / max(count, 1)


def _y(value: float, top: float) -> float:
    return HEIGHT - BOTTOM - value / top * (HEIGHT - TOP - BOTTOM)


def _heights(series: Sequence[Series]) -> list[float]:
    return [value for one in series for value in one.values if value is not None]


def _round_up(value: float) -> float:
    """The next 1, 2, 4, 5 or 8 times a power of ten that leaves room above the value."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value * 1.1))
    return next(step * power for step in (1, 2, 4, 5, 8, 10) if step * power >= value * 1.1)
