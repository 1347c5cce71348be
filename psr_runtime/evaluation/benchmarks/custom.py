"""`evaluation.benchmark` Custom: a user's own JSON lines, asked zero-shot by the solver prompt (paper §4)."""

from __future__ import annotations

from psr_runtime.data.reading import read_records, with_ids
from psr_runtime.data.records import GradedProblem
from psr_runtime.prompts.templates import Templates
from psr_runtime.storage import Storage


class Custom:
    """Lines of problem and answer; GSM8K's and the paper's other files are read like this, too."""

    def problems(self, storage: Storage, uri: str) -> list[GradedProblem]:
        """See `Benchmark.problems`; a problem without an id gets `p<line>`."""
        return with_ids(read_records(storage, uri, GradedProblem))

    def messages(self, problem: GradedProblem, templates: Templates) -> list[dict[str, str]]:
        """See `Benchmark.messages`."""
        return templates.solve_messages(problem.problem)
