"""The stages `search` and `merge` with a stand-in for the server."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from psr_runtime.artefacts.manifest import read_manifest
from psr_runtime.config import Questions
from psr_runtime.data.reading import read_records
from psr_runtime.data.records import Level, Pair, SearchProblem, Tree
from psr_runtime.prompts.tokens import Tokenizer
from psr_runtime.protocol.errors import DataError
from psr_runtime.search.problems import round_problems
from psr_runtime.stage import run_stage
from psr_runtime.storage import Storage, file_uri
from tests.search.following import assert_pairs_follow, assert_prompts_follow, seeds_of
from tests.search.language import WORDS, encode, write_problems
from tests.search.standin import Request, StandIn

Search = Callable[..., StandIn]


def trees_of(folder: Path) -> list[Tree]:
    return read_records(Storage(), file_uri(folder / "trees.jsonl"), Tree)


def pairs_in(folder: Path) -> list[Pair]:
    return read_records(Storage(), file_uri(folder / "pairs.jsonl"), Pair)


def sets(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in ("trees.jsonl", "pairs.jsonl")}


def merge(tmp_path: Path, parts: list[str], out: str = "merged") -> int:
    config = {"output": file_uri(tmp_path / out), "parts": [file_uri(tmp_path / part) for part in parts]}
    return run_stage("merge", json.dumps(config))


# --- what is asked and what is kept


def test_the_prompt_of_a_level_is_the_one_before_and_the_ids_kept(search: Search, tmp_path: Path) -> None:
    engine = search()
    assert assert_prompts_follow(engine.requests, trees_of(tmp_path / "out")) == 3


def test_pairs_follow_from_their_trees(search: Search, words: Tokenizer, tmp_path: Path) -> None:
    search()
    trees, pairs = trees_of(tmp_path / "out"), pairs_in(tmp_path / "out")
    assert 0 < len(pairs) < sum(len(tree.kept) for tree in trees)  # unanimous steps give none
    assert any(level.decision == "RollBack" for tree in trees for level in tree.levels)
    manifest = read_manifest(Storage(), file_uri(tmp_path / "out"))
    assert manifest is not None
    assert_pairs_follow(pairs, trees, words, manifest.inputs["model.uri"].digest)


def test_eos_is_in_a_record_iff_it_was_sampled(search: Search, tmp_path: Path) -> None:
    search()
    candidates = [c for tree in trees_of(tmp_path / "out") for level in tree.levels for c in level.candidates]
    assert {c.ended for c in candidates} == {"stop", "eos", "length"}
    assert {c.fault for c in candidates} == {None, "Malformed", "Truncated"}
    for candidate in candidates:
        assert (WORDS.index("<end>") in candidate.ids) == (candidate.ended == "eos")


def test_faulty_candidates_are_neither_judged_nor_kept_nor_paired(search: Search, tmp_path: Path) -> None:
    search()
    for tree in trees_of(tmp_path / "out"):
        for level in tree.levels:
            faults = {index for index, candidate in enumerate(level.candidates) if candidate.fault}
            assert faults == {index for index, score in enumerate(level.scores) if score is None}
            assert not faults & {level.best, level.worst}
            usable = list(dict.fromkeys(c.text for c in level.candidates if not c.fault))
            assert len(level.verdicts) == len(usable) * (len(usable) - 1)


def test_the_result_counts_what_the_trees_hold(search: Search, tmp_path: Path) -> None:
    engine = search()
    manifest = read_manifest(Storage(), file_uri(tmp_path / "out"))
    assert manifest is not None
    trees = trees_of(tmp_path / "out")
    candidates = [c for tree in trees for level in tree.levels for c in level.candidates]
    verdicts = [verdict for tree in trees for level in tree.levels for verdict in level.verdicts]
    wanted = {
        "problems": 8,
        "pairs": len(pairs_in(tmp_path / "out")),
        "candidates": len(candidates),
        "malformed": sum(c.fault == "Malformed" for c in candidates),
        "truncated": sum(c.fault == "Truncated" for c in candidates),
        "verdicts": len(engine.asked("judge")),
        "no_verdict": sum("[[" not in verdict.text for verdict in verdicts),
        "candidate_tokens": engine.usage["candidates"].completion_tokens,
        "judge_tokens": engine.usage["judge"].completion_tokens,
    }
    assert {name: manifest.result[name] for name in wanted} == wanted
    assert 0 < wanted["no_verdict"] < wanted["verdicts"]


def test_a_context_that_fills_up_ends_the_search_and_keeps_its_pairs(search: Search, tmp_path: Path) -> None:
    problems = write_problems(tmp_path / "problems.jsonl", 1)
    prompt = len(encode("<user>" + json.loads(problems.read_text())["problem"]))
    fields: dict[str, Any] = {"questions": {"count": 1}, "judge": {"control": "Random"}}
    search(engine=StandIn(context=prompt + 5), **fields)
    (tree,) = trees_of(tmp_path / "out")
    assert tree.outcome in ("ContextFull", "RollbackLimit")
    assert any(c.fault == "ContextFull" for level in tree.levels for c in level.candidates)
    assert len(tree.kept) == 1


# --- no ground truth after M1


def test_planted_answers_change_not_a_byte(search: Search, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_problems(tmp_path / "problems.jsonl", 8, answer="4")
    search("right")
    assert "problems.jsonl: answer not read; the search sees no answers" in capsys.readouterr().err
    write_problems(tmp_path / "problems.jsonl", 8, answer="Step 1: \\boxed{999}")
    search("planted")
    assert sets(tmp_path / "right") == sets(tmp_path / "planted")
    write_problems(tmp_path / "problems.jsonl", 9)  # another file does change them
    search("other")
    assert sets(tmp_path / "right") != sets(tmp_path / "other")


# --- shards and merging


@pytest.fixture
def shards(search: Search) -> list[str]:
    """Names of three finished shards of one search."""
    for shard in range(3):
        search(f"shard-{shard}", shard=shard, shards=3)
    return [f"shard-{shard}" for shard in range(3)]


def test_three_shards_merged_are_one_search(search: Search, shards: list[str], tmp_path: Path) -> None:
    search("whole")
    assert merge(tmp_path, shards) == 0
    assert sets(tmp_path / "merged") == sets(tmp_path / "whole")
    merged, whole = (read_manifest(Storage(), file_uri(tmp_path / name)) for name in ("merged", "whole"))
    assert merged is not None
    assert whole is not None
    assert merged.result == whole.result
    assert merged.metadata["problems"] == whole.metadata["problems"]
    assert {name: [tree.problem_id for tree in trees_of(tmp_path / name)] for name in shards} == {
        name: whole.metadata["problems"][index::3] for index, name in enumerate(shards)
    }


def test_merge_waits_for_every_shard(shards: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "shard-1" / "manifest.json").unlink()
    assert merge(tmp_path, shards) == 66
    assert "shard-1: no manifest.json" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "shard-1")
    assert merge(tmp_path, shards) == 66
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (["shard-0", "shard-2", "shard-1"], "shard-2: is shard 2 of 3, expected 1 of 3"),
        (["shard-0", "shard-1"], "shard-0: is shard 0 of 3, expected 0 of 2"),
        (["shard-0", "shard-1", "shard-1"], "shard-1: is shard 1 of 3, expected 2 of 3"),
    ],
)
def test_merge_wants_each_shard_in_its_place(
    shards: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], parts: list[str], message: str
) -> None:
    assert merge(tmp_path, parts) == 65
    assert message in capsys.readouterr().err


def test_merge_refuses_a_shard_of_another_search(
    search: Search, shards: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    search("foreign", shard=1, shards=3, seed=5)
    assert merge(tmp_path, ["shard-0", "foreign", "shard-2"]) == 65
    assert "foreign: made by another search than" in capsys.readouterr().err


def test_merge_refuses_what_is_no_shard_or_was_changed(
    shards: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert merge(tmp_path, shards) == 0
    assert merge(tmp_path, ["merged"], "again") == 65
    assert "made by stage merge, not by search" in capsys.readouterr().err
    pairs = tmp_path / "shard-2" / "pairs.jsonl"
    pairs.write_bytes(pairs.read_bytes().replace(b"\\boxed", b"\\bowed"))
    (tmp_path / "shard-2" / "trees.jsonl").write_bytes(b"{}\n")
    assert merge(tmp_path, shards, "third") == 65
    assert "shard-2" in capsys.readouterr().err


def test_merge_refuses_shards_whose_prompts_were_rendered_otherwise(
    search: Search, shards: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "shard-1" / "manifest.json"
    manifest = json.loads(place.read_text())
    whole = manifest["metadata"].pop("frame")
    place.write_text(json.dumps(manifest))
    assert merge(tmp_path, shards) == 0  # version 0.1.0 did not say
    manifest["metadata"]["frame"] = {**whole, "digest": "sha256:other"}
    place.write_text(json.dumps(manifest))
    assert merge(tmp_path, shards, "again") == 65
    assert "shard-1: its prompts were rendered otherwise than those of" in capsys.readouterr().err


# --- problems


def numbered(count: int) -> list[SearchProblem]:
    return [SearchProblem(id=f"q{number}", problem="?") for number in range(count)]


def test_rounds_take_disjoint_windows_of_one_permutation() -> None:
    problems = numbered(10)
    rounds = [round_problems(problems, Questions(offset=at, count=n), 3) for at, n in ((0, 4), (4, 4), (8, 2))]
    taken = [problem.id for window in rounds for problem in window]
    assert sorted(taken) == sorted(problem.id for problem in problems)
    assert taken != [problem.id for problem in problems]
    assert round_problems(problems, Questions(count=10), 4) != round_problems(problems, Questions(count=10), 3)


def test_too_few_problems_are_told_with_the_numbers() -> None:
    with pytest.raises(DataError, match="takes 4 after the first 8, and the file has 10") as caught:
        round_problems(numbered(10), Questions(offset=8, count=4), 3)
    assert caught.value.exit_code == 65
    reused = round_problems(numbered(10), Questions(offset=8, count=4, allow_reuse=True), 3)
    order = round_problems(numbered(10), Questions(count=10), 3)
    assert reused == [*order[8:], *order[:2]]


def test_a_prompt_beyond_the_context_names_the_problem(
    search: Search, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    problems = write_problems(tmp_path / "problems.jsonl", 8)
    longest = len(encode("<user>" + json.loads(problems.read_text().splitlines()[-1])["problem"]))
    engine = search(ends=65, engine=StandIn(context=longest))
    message = f"problem q7: its prompt has {longest} tokens and the model's context {longest}"
    assert message in capsys.readouterr().err
    assert engine.requests == []
    search(engine=StandIn(context=longest + 1))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": "q9"}', "problems.jsonl, line 9: problem: Field required"),
        ('{"id": "q9", "problem": ""}', "problems.jsonl, line 9: problem: String should have at least 1 character"),
        ('{"problem": "a"', "problems.jsonl, line 9: the line: Invalid JSON"),
        ('{"id": "q3", "problem": "a"}', "record 9: id 'q3' stands at record 4 already"),
    ],
)
def test_a_broken_problem_is_named(
    search: Search, tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, message: str
) -> None:
    problems = write_problems(tmp_path / "problems.jsonl", 8)
    problems.write_text(problems.read_text() + line + "\n")
    engine = search(ends=65)
    assert message in capsys.readouterr().err
    assert engine.requests == []


# --- resuming


class GoneAfter:
    """Ends the engine's life after so many requests."""

    def __init__(self, requests: int) -> None:
        self.left = requests

    def __call__(self, request: Request) -> None:
        self.left -= 1
        if self.left < 0:
            raise OSError("the machine is gone")


def test_a_finished_level_is_never_asked_again(search: Search, tmp_path: Path) -> None:
    whole = search("whole")
    first = search(ends=1, engine=StandIn(before=GoneAfter(60)))
    logged = [json.loads(line)["level"] for line in log_lines(tmp_path / "out")]
    assert 0 < len(logged) < len(whole.asked("candidates"))

    second = search()

    assert sets(tmp_path / "out") == sets(tmp_path / "whole")
    assert not (tmp_path / "out" / "log").exists()
    finished = {seed for level in logged for seed in seeds_of(Level.model_validate(level))}
    assert finished <= {request.sampling.seed for request in first.requests}
    assert {r.sampling.seed for r in second.requests} == {r.sampling.seed for r in whole.requests} - finished
    assert len(second.requests) == len(whole.requests) - len(finished)


def test_a_log_of_another_configuration_is_refused(
    search: Search, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    search(ends=1, engine=StandIn(before=GoneAfter(60)))
    before = log_lines(tmp_path / "out")
    engine = search(ends=65, seed=1)
    assert "log: holds the result of another configuration" in capsys.readouterr().err
    assert engine.requests == []
    assert log_lines(tmp_path / "out") == before


def test_of_two_writers_at_once_the_first_record_of_a_level_stands(search: Search, tmp_path: Path) -> None:
    search("whole")
    search(ends=1, engine=StandIn(before=GoneAfter(60)))
    (segment,) = (tmp_path / "out" / "log").iterdir()
    records = [json.loads(line) for line in segment.read_text().splitlines()]
    for record in records:
        record["level"]["judge_tokens"] += 1000
    (tmp_path / "out" / "log" / "segment-2.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    search()
    assert sets(tmp_path / "out") == sets(tmp_path / "whole")


def log_lines(folder: Path) -> list[str]:
    return [line for path in sorted((folder / "log").iterdir()) for line in path.read_text().splitlines()]


# --- what does and does not decide the result


def test_concurrency_and_servers_do_not_decide_the_result(search: Search, tmp_path: Path) -> None:
    search("many")
    one: dict[str, Any] = {"width": 4, "temperature": 1.0, "topP": 1.0, "maxStepTokens": 8, "acceptUnanimous": True}
    search("one", search=one | {"concurrency": 1}, server={"urls": ["http://127.0.0.1:8", "http://127.0.0.1:9"]})
    assert sets(tmp_path / "many") == sets(tmp_path / "one")
    many, single = (read_manifest(Storage(), file_uri(tmp_path / name)) for name in ("many", "one"))
    assert many is not None
    assert single is not None
    assert many.digest == single.digest


def test_at_most_so_many_problems_are_searched_at_a_time(search: Search) -> None:
    under_way: set[str] = set()
    most = 0

    class Watched(StandIn):
        async def complete(self, prompt_ids: list[int], sampling: Any, *, purpose: str, affinity: str) -> Any:
            nonlocal most
            under_way.add(affinity)
            most = max(most, len(under_way))
            try:
                await asyncio.sleep(0)
                return await super().complete(prompt_ids, sampling, purpose=purpose, affinity=affinity)
            finally:
                under_way.discard(affinity)

    search(engine=Watched(), search={"width": 2, "maxStepTokens": 8, "concurrency": 3})
    assert most == 3
