"""SIGKILL of a search that talks to a real vLLM: what was finished stands, and is never asked again."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from harness.engine_server import EngineServer
from psr_runtime.artefacts.journal import Journal
from psr_runtime.config import Endpoint
from psr_runtime.data.reading import read_records
from psr_runtime.data.records import Level, Pair, Tree
from psr_runtime.prompts.tokens import Tokenizer
from psr_runtime.search import stage as search_stage
from psr_runtime.stage import run_stage
from psr_runtime.storage import Storage, file_uri
from tests.search.following import assert_pairs_follow, seeds_of
from tests.search.language import search_fields, write_problems
from tests.search.live import Recorder

pytestmark = pytest.mark.engine

KILLS = 5
PATIENCE = 120.0
"""Seconds that an attempt may take to send its next requests."""


def start(document: str, live: EngineServer, seeds: Path, log: Path) -> int:
    """Fork a process that runs the search and writes the seed of each request to a file; its pid."""
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
        engine = Recorder(Endpoint(urls=[live.url]), live.digest, seeds_file=seeds)
        setattr(search_stage, "open_engine", lambda endpoint, digest: engine)  # noqa: B010
        code = run_stage("search", document)
    finally:
        os._exit(code)


def wait(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def kill_after(pid: int, seeds: Path, requests: int) -> None:
    """Kill a process once it has sent so many requests."""
    end = time.monotonic() + PATIENCE
    while len(asked(seeds)) < requests:
        assert os.waitpid(pid, os.WNOHANG) == (0, 0), "the search ended before it could be killed"
        assert time.monotonic() < end
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    assert wait(pid) == -signal.SIGKILL


def asked(seeds: Path) -> list[int]:
    return [int(line) for line in seeds.read_text().split("\n")[:-1]] if seeds.exists() else []


def test_killed_five_times_it_repeats_nothing_that_was_finished(
    live: EngineServer, speaker: Path, words: Tokenizer, tmp_path: Path
) -> None:
    problems = write_problems(tmp_path / "problems.jsonl", 12)
    out, chance = tmp_path / "out", random.Random(0)
    fields: dict[str, Any] = search_fields(speaker, problems) | {"questions": {"count": 12}}
    fields["search"] |= {"concurrency": 3}  # so that levels are finished all the time
    document = json.dumps({"output": file_uri(out), **fields})
    finished: list[Level] = []
    segments: dict[str, bytes] = {}

    for attempt in range(KILLS + 1):
        seeds, log = tmp_path / f"seeds-{attempt}", tmp_path / f"log-{attempt}"
        pid = start(document, live, seeds, log)
        if attempt < KILLS:
            kill_after(pid, seeds, chance.randint(15, 40))
        else:
            assert wait(pid) == 0, log.read_text()
        repeated = {seed for level in finished for seed in seeds_of(level)} & set(asked(seeds))
        assert repeated == set()
        if attempt < KILLS:
            now = {path.name: path.read_bytes() for path in (out / "log").glob("*") if path.is_file()}
            assert {name: now[name] for name in segments} == segments  # what stood is not touched
            records = Journal(Storage(), file_uri(out / "log")).replay()
            levels = [Level.model_validate(record["level"]) for record in records]
            assert levels[: len(finished)] == finished
            finished, segments = levels, now

    trees = read_records(Storage(), file_uri(out / "trees.jsonl"), Tree)
    pairs = read_records(Storage(), file_uri(out / "pairs.jsonl"), Pair)
    assert sorted(tree.problem_id for tree in trees) == sorted(f"q{number}" for number in range(12))
    assert len({(level.problem_id, level.number) for level in finished}) == len(finished) >= KILLS
    by_problem = {tree.problem_id: tree for tree in trees}
    for level in finished:
        assert by_problem[level.problem_id].levels[level.number].to_line() == level.to_line()
    assert_pairs_follow(pairs, trees, words, live.digest)
    assert not (out / "log").exists()
