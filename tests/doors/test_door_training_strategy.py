"""A training strategy from outside: it works micro-batches off from the last to the first, and says what is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from psr_runtime.storage import file_uri
from psr_runtime.training.strategies import STRATEGIES
from psr_runtime.training.strategies.single import Single
from psr_runtime.training.update_trainer import UpdateTrainer
from tests.training.tiny_models import PROMPTS, write_ift

asked: list[str] = []


class BackwardsTrainer(UpdateTrainer):
    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        asked.append("update")
        return super().training_step(model, {**inputs, "micro": inputs["micro"][::-1]}, num_items_in_batch)


class Backwards(Single):
    def arguments(self, settings: Mapping[str, Any]) -> Any:
        asked.append("arguments")
        return super().arguments(settings)

    def trainer(self, **parts: Any) -> UpdateTrainer:
        return BackwardsTrainer(**parts)

    def whole(self, model: Any) -> Any:
        asked.append("whole")
        return super().whole(model)


@pytest.fixture(autouse=True)
def backwards() -> Iterator[None]:
    STRATEGIES.register("Backwards")(Backwards)
    yield
    STRATEGIES.unregister("Backwards")


def test_a_toy_strategy_trains(qwen: Path, stage: Callable[..., int], tmp_path: Path, capsys: Any) -> None:
    settings = {"learningRate": 1e-3, "epochs": 1, "globalBatch": 6, "microBatch": 2, "precision": "float32"}
    fields = {"model": {"uri": file_uri(qwen)}, "ift": write_ift(tmp_path / "ift.jsonl", 12), "prompts": PROMPTS}
    assert stage("sft", "plain", **fields, training=settings) == 0
    assert stage("sft", "toy", **fields, training={**settings, "strategy": "Backwards"}) == 0
    assert asked == ["arguments", "update", "update", "whole"]
    plain, toy = (load_file(tmp_path / name / "master/model.safetensors") for name in ("plain", "toy"))
    torch.testing.assert_close(toy, plain, rtol=0, atol=1e-4)
    assert stage("sft", "none", **fields, training={"strategy": "Nobody"}) == 64
    assert "training.strategy: nobody brings 'Nobody'; there are Backwards, Single." in capsys.readouterr().err
