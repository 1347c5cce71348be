"""Search strategies: how one problem is searched to its end.

A manifest names one as `search.strategy`; a package brings others by an entry point in the group `psr.search`. What a
name stands for is called with a `SearchSetup` and gives a `SearchStrategy`. Pairs are read off the trees that it
returns, so a strategy decides what is sampled and kept, and nothing about files, logs or shards.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from psr_runtime.config import SearchConfig
from psr_runtime.config.plugins import Registry
from psr_runtime.data.records import Level, SearchProblem, Tree
from psr_runtime.engine import Engine
from psr_runtime.prompts.tokens import Tokenizer
from psr_runtime.search.judges import Judge

Log = Callable[[Level], Awaitable[None]]
"""Stores a finished level; returns once it is stored for good."""


@dataclass(frozen=True)
class SearchSetup:
    """What the searches of all problems share.

    Attributes:
        engine: server of the policy.
        judge: scores the candidates of a level.
        config: the manifest's `search`.
        context: tokens that a prompt and its completion may have together.
        seed: prefix of every seed: run seed and iteration.
    """

    engine: Engine
    tokenizer: Tokenizer
    judge: Judge
    config: SearchConfig
    context: int
    seed: tuple[int, int]


class SearchStrategy(Protocol):
    """Searches problems, each by itself; many at the same time."""

    async def search(self, problem: SearchProblem, prompt_ids: list[int], finished: Sequence[Level], log: Log) -> Tree:
        """Search one problem to its end.

        Args:
            problem: id and text.
            prompt_ids: ids of the solver prompt; the prompt of level l is these and the kept ids.
            finished: levels that an earlier attempt logged, in order; none of their calls may be repeated.
            log: to be awaited with each new level, in order, before the next one begins.

        Raises:
            DataError: the finished levels are not this search's.
        """


STRATEGIES: Registry[Callable[[SearchSetup], SearchStrategy]] = Registry.of(SearchConfig, "strategy", "search.strategy")
"""Every strategy by its name in a manifest."""
