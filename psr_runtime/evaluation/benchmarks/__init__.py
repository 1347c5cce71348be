"""Benchmarks: how a problem file is read, and what a model is asked about each problem.

A manifest names one as `evaluation.benchmark`; a package brings others by an entry point in the group `psr.benchmarks`.
What a name stands for is called without arguments and gives a `Benchmark`. Decoding and grading are no part of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from psr_runtime.config import EvaluationConfig
from psr_runtime.config.plugins import Registry
from psr_runtime.data.records import GradedProblem
from psr_runtime.prompts.templates import Templates
from psr_runtime.storage import Storage


class Benchmark(Protocol):
    """Problems with gold answers."""

    def problems(self, storage: Storage, uri: str) -> Sequence[GradedProblem]:
        """The problems of a file in its order, each with an id of its own.

        Raises:
            InputMissing: no such file.
            DataError: a line is broken; the message names file, line and field.
        """

    def messages(self, problem: GradedProblem, templates: Templates) -> list[dict[str, str]]:
        """Chat messages that ask for a solution: `role` and `content` each."""


BENCHMARKS: Registry[Callable[[], Benchmark]] = Registry.of(EvaluationConfig, "benchmark", "evaluation.benchmark")
"""Every benchmark by its name in a manifest."""
