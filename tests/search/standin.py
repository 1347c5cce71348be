"""`StandIn`: an engine in this process that speaks `language.py` and writes down what it is asked.

A completion is a pure function of the prompt, the sampling and its seed; nothing depends on when it is asked or on
what else is. That the shape of its answers is vLLM's is shown in `test_search_engine.py`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType

from psr_runtime.engine import Completion, Sampling, Usage
from tests.search.language import CONTEXT, EOS, WORDS, after


@dataclass(frozen=True)
class Request:
    """One call of `complete`."""

    prompt_ids: list[int]
    sampling: Sampling
    purpose: str
    affinity: str


@dataclass
class StandIn:
    """An `Engine` without a server.

    Attributes:
        context: tokens that prompt and completion may have together.
        requests: every call so far, in order.
        before: called at the start of each.
    """

    context: int = CONTEXT
    requests: list[Request] = field(default_factory=list)
    before: Callable[[Request], None] = lambda _: None
    usage: dict[str, Usage] = field(default_factory=dict)

    async def complete(
        self, prompt_ids: list[int], sampling: Sampling, *, purpose: str, affinity: str
    ) -> list[Completion]:
        request = Request(list(prompt_ids), sampling, purpose, affinity)
        self.before(request)
        self.requests.append(request)
        await asyncio.sleep(0)
        assert len(prompt_ids) + sampling.max_tokens <= self.context, "asks for more than the context holds"
        assert sampling.n == 1 or sampling.temperature > 0, "vLLM refuses several greedy completions"
        completions = [_sample(prompt_ids, sampling, child) for child in range(sampling.n)]
        total = self.usage.setdefault(purpose, Usage())
        total.requests += 1
        total.prompt_tokens += len(prompt_ids)
        total.completion_tokens += sum(len(item.token_ids) for item in completions)
        return completions

    def asked(self, purpose: str) -> list[Request]:
        """The calls for one purpose."""
        return [request for request in self.requests if request.purpose == purpose]

    async def context_length(self) -> int:
        return self.context

    async def __aenter__(self) -> StandIn:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def _sample(prompt_ids: list[int], sampling: Sampling, child: int) -> Completion:
    seed = sampling.seed + child if sampling.seed is not None else ("unseeded", child)  # as vLLM gives its children
    rng = random.Random(repr((seed, prompt_ids, sampling.temperature)))
    ids: list[int] = []
    last = prompt_ids[-1]
    while len(ids) < sampling.max_tokens:
        last = _next(last, sampling.temperature, rng)
        ids.append(last)
        text = "".join(WORDS[token] for token in ids)
        if last == EOS or last in sampling.stop_token_ids or any(stop in text for stop in sampling.stop):
            return Completion(ids, "stop")
    return Completion(ids, "length")


def _next(last: int, temperature: float, rng: random.Random) -> int:
    shares = after(last)
    if temperature == 0:
        return max(shares, key=lambda token: shares[token])
    (token,) = rng.choices(list(shares), [share ** (1 / temperature) for share in shares.values()])
    return token
