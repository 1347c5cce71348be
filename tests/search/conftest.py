"""A model folder that speaks the tests' language, its problems, and the search as a stage in this process."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.engine_server import EngineServer, start_server
from psr_runtime.prompts.tokens import Tokenizer
from psr_runtime.search import stage as search_stage
from psr_runtime.stage import run_stage
from psr_runtime.storage import file_uri
from tests.search.language import search_fields, write_model, write_problems
from tests.search.standin import StandIn


@pytest.fixture(scope="session")
def speaker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the model that speaks the tests' language."""
    return write_model(tmp_path_factory.mktemp("speaker") / "model")


@pytest.fixture(scope="session")
def words(speaker: Path) -> Tokenizer:
    """Its tokenizer, as every stage loads it."""
    return Tokenizer(speaker)


@pytest.fixture
def search(speaker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., StandIn]:
    """Run the stage `search` to the exit code `ends` with a stand-in, which is returned.

    The output is `tmp_path/<out>`; further fields replace those of the configuration.
    """

    def run(out: str = "out", *, ends: int = 0, engine: StandIn | None = None, **fields: Any) -> StandIn:
        standin = engine or StandIn()
        monkeypatch.setattr(search_stage, "open_engine", lambda endpoint, digest: standin)
        problems = tmp_path / "problems.jsonl"
        if not problems.exists():
            write_problems(problems, 8)
        config = {"output": file_uri(tmp_path / out), **search_fields(speaker, problems), **fields}
        assert run_stage("search", json.dumps(config)) == ends
        return standin

    return run


@pytest.fixture(scope="session")
def live(speaker: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineServer]:
    """A real server that speaks the tests' language."""
    with start_server(file_uri(speaker), tmp_path_factory.mktemp("live")) as server:
        yield server
