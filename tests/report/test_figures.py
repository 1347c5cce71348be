"""Figures: marks stand where their values are."""

import re
from xml.etree import ElementTree

from psr_runtime.report.figures import BOTTOM, HEIGHT, TOP, Series, bar_chart, line_chart, percent


def heights(figure: str) -> list[float]:
    """Heights of marks above the axis, as shares of the axis."""
    return [(HEIGHT - BOTTOM - float(y)) / (HEIGHT - TOP - BOTTOM) for y in re.findall(r'cy="([\d.]+)"', figure)]


def test_a_line_chart_puts_marks_at_their_values_and_leaves_gaps() -> None:
    figure = line_chart(
        "Accuracy", ["M1", "M2", "M3"], [Series("a", [0.5, None, 1.0], [0.02, None, 0.0])], write=percent, top=1.0
    )

    ElementTree.fromstring(figure)
    assert heights(figure) == [0.5, 1.0]
    assert figure.count('class="error') == 1
    assert "a: M1 50.0 %, M3 100.0 %" in figure


def test_bars_are_as_high_as_their_values() -> None:
    figure = bar_chart("Pairs", ["by M1", "by M2"], [Series("pairs", [100, 50])])

    ElementTree.fromstring(figure)
    first, second = (float(height) for height in re.findall(r' height="([\d.]+)"', figure))
    assert first == 2 * second > 0


def test_names_are_text() -> None:
    figure = line_chart("a < b & c", ["<M1>"], [Series("<x>", [1]), Series("y", [2])])

    ElementTree.fromstring(figure)
    assert "<M1>" not in figure
    assert "&lt;x&gt;" in figure


def test_nothing_to_show_is_an_empty_figure() -> None:
    ElementTree.fromstring(bar_chart("Pairs", [], []))
    ElementTree.fromstring(line_chart("Steps", ["M1"], [Series("a", [None])]))
    ElementTree.fromstring(line_chart("Steps", ["M1"], [Series("a", [0.0])]))
