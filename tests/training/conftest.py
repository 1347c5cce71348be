"""Models on disk, and stages run in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from psr_runtime.stage import run_stage
from psr_runtime.storage import file_uri
from tests.training.tiny_models import make_model

torch.set_num_threads(1)  # models this small lose more to the second thread than they gain


@pytest.fixture(scope="session")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen2 model, untied, of 2 layers."""
    return make_model(tmp_path_factory.mktemp("qwen"), Qwen2Config, Qwen2ForCausalLM, seed=1)


@pytest.fixture(scope="session")
def other_qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same architecture and tokenizer with other weights."""
    return make_model(tmp_path_factory.mktemp("other"), Qwen2Config, Qwen2ForCausalLM, seed=2)


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama model with tied embeddings."""
    return make_model(tmp_path_factory.mktemp("llama"), LlamaConfig, LlamaForCausalLM, seed=3, tie=True)


@pytest.fixture
def stage(tmp_path: Path) -> Callable[..., int]:
    """Run a stage in this process and return its exit code; the output is `tmp_path/<output>`."""

    def run(name: str, output: str = "out", **fields: Any) -> int:
        return run_stage(name, json.dumps({"output": file_uri(tmp_path / output), **fields}))

    return run
