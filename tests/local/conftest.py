"""A model folder, problems and a steered stand-in for vLLM, for `psr run` as a process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from psr_runtime.storage import file_uri
from tests.local.command import StandIn
from tests.models.flavours import qwen2

COUNT = 4


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder; its weights are tiny and random."""
    folder = tmp_path_factory.mktemp("model")
    qwen2(folder)
    return folder


@pytest.fixture(scope="session")
def problems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of `COUNT` problems with answers."""
    path = tmp_path_factory.mktemp("problems") / "problems.jsonl"
    rows = [{"problem": f"How much is {number} + 1?", "answer": str(number + 1)} for number in range(COUNT)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def stand_in(tmp_path: Path) -> StandIn:
    """The stand-in that servers of this test run instead of vLLM."""
    folder = tmp_path / "stand-in"
    folder.mkdir()
    return StandIn(folder)


@pytest.fixture
def common(model: Path, tmp_path: Path) -> dict[str, Any]:
    """Fields that every kind has."""
    return {"storage": {"uri": file_uri(tmp_path / "out")}, "model": {"uri": file_uri(model)}}
