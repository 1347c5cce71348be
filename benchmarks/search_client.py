"""One search of `benchmarks/search.py`, in a process of its own: the real stage, with its requests kept in memory.

python -m benchmarks.search_client CONFIGURATION RECORD
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from psr_runtime.engine import Completion, Sampling, VLLMClient
from psr_runtime.stage import run_stage

Complete = Callable[..., Awaitable[list[Completion]]]


@dataclass
class Request:
    """A request, and its completions once they came."""

    prompt_ids: list[int]
    sampling: Sampling
    purpose: str
    completions: list[Completion]


@dataclass
class Record:
    """What was asked and answered, and how long that took.

    Attributes:
        requests: in the order in which they were sent.
        first, last: wall and processor time in seconds at the first request and at the last answer.
    """

    requests: list[Request] = field(default_factory=list)
    first: tuple[float, float] | None = None
    last: tuple[float, float] = (0.0, 0.0)

    def around(self, complete: Complete) -> Complete:
        """`VLLMClient.complete` with this record. A request costs one reading of each clock and an object."""

        async def recorded(
            client: VLLMClient, prompt_ids: list[int], sampling: Sampling, *, purpose: str, affinity: str
        ) -> list[Completion]:
            if self.first is None:
                self.first = time.monotonic(), time.process_time()
            request = Request(prompt_ids, sampling, purpose, [])
            self.requests.append(request)
            request.completions = await complete(client, prompt_ids, sampling, purpose=purpose, affinity=affinity)
            self.last = time.monotonic(), time.process_time()
            return request.completions

        return recorded

    def to_json(self) -> dict[str, Any]:
        """Figures and requests."""
        assert self.first is not None, "the search asked nothing"
        tokens = {"candidates": 0, "judge": 0}
        for request in self.requests:
            tokens[request.purpose] += sum(len(item.token_ids) for item in request.completions)
        return {
            "seconds": self.last[0] - self.first[0],
            "cpu_seconds": self.last[1] - self.first[1],
            "candidate_tokens": tokens["candidates"],
            "judge_tokens": tokens["judge"],
            "requests": [
                {"prompt_ids": request.prompt_ids, "sampling": asdict(request.sampling)} for request in self.requests
            ],
        }


def main() -> int:
    configuration, place = map(Path, sys.argv[1:])
    record = Record()
    VLLMClient.complete = record.around(VLLMClient.complete)  # type: ignore[method-assign, assignment]
    code = run_stage("search", configuration.read_text(), source=str(configuration))
    if code == 0:
        place.write_text(json.dumps(record.to_json()))
    return code


if __name__ == "__main__":
    sys.exit(main())
