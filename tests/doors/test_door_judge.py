"""A judge from outside: it scores each step by itself, asks nobody, and decides a whole search."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from psr_runtime.data.reading import read_records
from psr_runtime.data.records import Pair, Tree
from psr_runtime.search.judges import JUDGES, Assessment, CandidateSet, JudgeSetup
from psr_runtime.storage import Storage, file_uri
from tests.search.standin import StandIn


class Largest:
    """Half the sum of a step's digits is its score."""

    def __init__(self, setup: JudgeSetup) -> None:
        assert setup.config.strategy == "Largest"

    async def assess(self, candidates: CandidateSet) -> Assessment:
        return Assessment([worth(text) for text in candidates.texts])


def worth(text: str) -> float:
    return sum(map(int, re.findall(r"\d", text))) / 2


@pytest.fixture(autouse=True)
def largest() -> Iterator[None]:
    JUDGES.register("Largest")(Largest)
    yield
    JUDGES.unregister("Largest")


def test_a_toy_judge_decides_a_search(search: Callable[..., StandIn], tmp_path: Path) -> None:
    engine = search(judge={"strategy": "Largest"})
    assert {request.purpose for request in engine.requests} == {"candidates"}
    trees = read_records(Storage(), file_uri(tmp_path / "out/trees.jsonl"), Tree)
    for level in (level for tree in trees for level in tree.levels):
        assert level.scores == [None if item.fault else worth(item.text) for item in level.candidates]
    pairs = read_records(Storage(), file_uri(tmp_path / "out/pairs.jsonl"), Pair)
    assert pairs
    assert all(worth(pair.chosen) == max(pair.scores) > min(pair.scores) == worth(pair.rejected) for pair in pairs)

    search("inverted", judge={"strategy": "Largest", "control": "Inverted"})
    pairs = read_records(Storage(), file_uri(tmp_path / "inverted/pairs.jsonl"), Pair)
    assert pairs
    assert all(worth(pair.chosen) < worth(pair.rejected) for pair in pairs)


def test_a_judge_that_nobody_brings_is_refused(
    search: Callable[..., StandIn], capsys: pytest.CaptureFixture[str]
) -> None:
    search(ends=64, judge={"strategy": "Nobody"})
    assert "judge.strategy: nobody brings 'Nobody'; there are Largest, Pairwise." in capsys.readouterr().err
