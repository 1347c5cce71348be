"""The arithmetic of the benchmarks; the measurements themselves are `make bench-operator`."""

from __future__ import annotations

import math

import pytest

from benchmarks.operator import Figures, quantile, slope, summary


def test_a_slope_of_one_is_linear_growth() -> None:
    assert slope({500: 5.0, 1000: 10.0, 2000: 20.0}) == pytest.approx(1.0)
    assert slope({500: 5.0, 1000: 20.0}) == pytest.approx(2.0)
    assert slope({500: 5.0}) is None


def test_quantiles_are_linear_within_a_bucket() -> None:
    buckets = [(0.1, 50.0), (0.2, 100.0), (math.inf, 100.0)]
    assert quantile(buckets, 0.25) == pytest.approx(0.05)
    assert quantile(buckets, 0.75) == pytest.approx(0.15)
    assert quantile([(0.1, 0.0), (math.inf, 4.0)], 0.5) == pytest.approx(0.1)


def test_the_summary_compares_at_the_largest_count_that_both_have() -> None:
    figures = summary(
        [_figures("plain", 50, 30.0, 1000), _figures("ours", 50, 10.0, 500), _figures("ours", 100, 20.0, 1)]
    )
    assert (figures["compared_at"], figures["speedup"], figures["write_ratio"]) == (50, 3.0, 0.5)
    assert (figures["growth"], figures["seconds"]) == (1.0, {"50": 10.0, "100": 20.0})
    assert figures["rss_over_import_mb"] == 20.0
    assert (figures["p50"], figures["p99"]) == (0.001, 0.02)


def test_an_operator_that_was_not_done_gives_bounds() -> None:
    figures = summary([_figures("plain", 50, 30.0, 1000, ready=7), _figures("ours", 50, 10.0, 500)])
    assert (figures["plain_ready"], figures["compared_at"], figures["speedup"]) == (7, 50, 3.0)


def _figures(operator: str, count: int, seconds: float, writes: int, ready: int | None = None) -> Figures:
    delays = {"psr_reconcile_seconds": {"p50": 0.001, "p99": 0.02, "count": 9.0}}
    done = count if ready is None else ready
    return Figures(operator, count, done, seconds, 1.0, writes, 0, {}, 120.0, 100.0, delays, {})
