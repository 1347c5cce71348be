"""The search benchmark in small, on the server of this folder's tests, and the arithmetic of its summary."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.search import Replay, Round, Search, command_of, forget_prefixes, replay, search, summary, table
from harness.engine_server import EngineServer
from tests.search.language import search_fields, write_problems

LIMIT = 240.0


@pytest.fixture
def unseen(live: EngineServer) -> Iterator[EngineServer]:
    """The server, which knows no prefix of this test's afterwards."""
    yield live
    forget_prefixes(live)


@pytest.mark.engine
def test_four_problems_at_once_one_at_a_time_and_offline(unseen: EngineServer, speaker: Path, tmp_path: Path) -> None:
    fields = search_fields(speaker, write_problems(tmp_path / "problems.jsonl", 8))
    del fields["server"]
    together = search(fields, unseen, 4, 4, tmp_path / "together", LIMIT)
    alone = search(fields, unseen, 4, 1, tmp_path / "alone", LIMIT)
    replays = replay(*command_of(unseen), {4: tmp_path / "together"}, tmp_path / "offline", LIMIT)

    total = summary([Round({4: together}, replays, alone)])
    print(table(total))
    assert together.requests == alone.requests > 12  # a request for candidates a level, and verdicts
    assert min(together.candidate_tokens, together.judge_tokens) > 0
    assert 0 < together.cpu_seconds < together.process_cpu_seconds
    assert replays[4].tokens == together.candidate_tokens + together.judge_tokens  # the seeds are the same
    assert total["ratios"]["4"] > 0
    assert total["times_one_at_a_time"]["4"] > 0
    assert (total["searches"]["4"]["concurrency"], total["one_at_a_time"]["concurrency"]) == (
        4,
        1,
    )


def test_ratios_are_taken_within_a_round_and_medians_over_rounds() -> None:
    total = summary([figures(1.0), figures(3.0), figures(10.0)])
    assert total["ratios"] == {"2": 0.5, "9": 0.5}  # a slow machine slows both sides of a round
    assert total["times_one_at_a_time"] == {"2": 4.0, "9": 4.0}
    assert (total["searches"]["9"]["seconds"], total["searches"]["9"]["tokens_per_second"]) == (
        6.0,
        5.0,
    )
    assert (
        total["searches"]["2"]["cpu_share"],
        total["searches"]["2"]["cpu_ms_per_request"],
    ) == (0.25, 150.0)
    assert (total["one_at_a_time"]["problems"], total["one_at_a_time"]["ratio"]) == (2, 0.125)
    assert len(total["rounds"]) == 3


def figures(slowness: float) -> Round:
    def through(problems: int, concurrency: int, seconds: float) -> Search:
        return Search(problems, concurrency, seconds * slowness, 0.25 * seconds * slowness, 1.0, 10, 20, 10)

    return Round(
        {size: through(size, size, 2.0) for size in (2, 9)},
        {size: Replay(size, 1.0 * slowness, 30) for size in (2, 9)},
        through(2, 1, 8.0),
    )
