"""The client of a real server that also keeps what was asked and answered."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from psr_runtime.engine import Completion, Sampling, VLLMClient
from tests.search.standin import Request


@dataclass
class Recorder(VLLMClient):
    """`VLLMClient` with a record.

    Attributes:
        requests: every call of `complete`, in the order of sending.
        attainable: by purpose, prompt tokens that can be in the prefix cache: the longest beginning, in whole blocks,
            that a prompt shares with an earlier prompt or with one and its completion; of the further samples of a
            request all whole blocks of its prompt.
        seeds_file: each request's seed is written there before it is sent, for whoever kills this process.
    """

    requests: list[Request] = field(default_factory=list)
    attainable: dict[str, int] = field(default_factory=dict)
    block: int = 32
    seeds_file: Path | None = None
    _known: set[tuple[int, ...]] = field(default_factory=set)

    async def complete(
        self, prompt_ids: list[int], sampling: Sampling, *, purpose: str, affinity: str
    ) -> list[Completion]:
        self.requests.append(Request(list(prompt_ids), sampling, purpose, affinity))
        self._count_attainable(prompt_ids, sampling.n, purpose)
        if self.seeds_file is not None:
            with open(self.seeds_file, "ab", buffering=0) as file:
                os.write(file.fileno(), b"%d\n" % (sampling.seed or 0))
        completions = await super().complete(prompt_ids, sampling, purpose=purpose, affinity=affinity)
        for completion in completions:
            self._learn(prompt_ids + completion.token_ids)
        return completions

    def _count_attainable(self, ids: list[int], samples: int, purpose: str) -> None:
        most = (len(ids) - 1) // self.block * self.block  # the last token is always computed
        shared = 0
        while shared < most and tuple(ids[: shared + self.block]) in self._known:
            shared += self.block
        self.attainable[purpose] = self.attainable.get(purpose, 0) + shared + (samples - 1) * most
        self._learn(ids)

    def _learn(self, ids: list[int]) -> None:
        self._known |= {tuple(ids[:end]) for end in range(self.block, len(ids) + 1, self.block)}
