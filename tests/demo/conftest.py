"""The demo's generator, imported from where it stands, and its files, made once."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from psr_runtime.config import Prompts
from psr_runtime.prompts.templates import Templates
from psr_runtime.prompts.tokens import Tokenizer

DEMO = Path(__file__).parents[2] / "examples" / "demo"
sys.path.insert(0, str(DEMO))


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the demo's files for seed 0."""
    from make_data import make_data

    folder = tmp_path_factory.mktemp("demo") / "data"
    make_data(folder, 0)
    return folder


@pytest.fixture(scope="session")
def tokenizer(data: Path) -> Tokenizer:
    """The demo's tokenizer as every stage loads it."""
    return Tokenizer(data / "base")


@pytest.fixture(scope="session")
def templates() -> Templates:
    """The prompts that the demo's manifest declares."""
    judge = "{Question and Partial Reasoning Steps}\nA: {Step A}\nB: {Step B}\nCheck:"
    return Templates.of(Prompts(solve="{problem}", judge=judge))
