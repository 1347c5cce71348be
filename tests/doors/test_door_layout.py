"""A layout from outside: one sequence a pass, so that nothing is padded. The numbers are those of `Pairs`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from psr_runtime.storage import file_uri
from psr_runtime.training.layouts import LAYOUTS
from psr_runtime.training.layouts.pairs import Pairs
from psr_runtime.training.likelihood import response_logprobs
from tests.training.tiny_models import make_pairs, write_pairs

passes: list[int] = []


class OneByOne(Pairs):
    def logprobs(self, model: Any, records: Sequence[int], precision: str) -> tuple[torch.Tensor, torch.Tensor]:
        passes.append(len(records))
        pairs = [self.samples[record] for record in records]
        chosen = [response_logprobs(model, [pair.chosen], precision).sum() for pair in pairs]
        rejected = [response_logprobs(model, [pair.rejected], precision).sum() for pair in pairs]
        return torch.stack(chosen), torch.stack(rejected)


@pytest.fixture(autouse=True)
def one_by_one() -> Iterator[None]:
    LAYOUTS.register("OneByOne")(OneByOne)
    yield
    LAYOUTS.unregister("OneByOne")


def test_a_toy_layout_trains(qwen: Path, stage: Callable[..., int], tmp_path: Path) -> None:
    settings = {"learningRate": 1e-3, "globalBatch": 5, "microBatch": 3, "precision": "float32"}
    fields = {"model": {"uri": file_uri(qwen)}, "pairs": write_pairs(tmp_path / "pairs.jsonl", make_pairs(qwen, 10))}
    assert stage("step-dpo", "plain", **fields, training=settings) == 0
    assert passes == []
    assert stage("step-dpo", "toy", **fields, training={**settings, "layout": "OneByOne"}) == 0
    assert passes == [3, 2, 3, 2] * 3  # before, in and after training
    plain, toy = (json.loads((tmp_path / name / "manifest.json").read_text()) for name in ("plain", "toy"))
    assert toy["digest"] != plain["digest"]
    for name in ("loss_last", "mean_margin", "chosen_logprob_change", "rejected_logprob_change"):
        assert toy["result"][name] == pytest.approx(plain["result"][name], rel=1e-3, abs=1e-4)


def test_a_layout_that_nobody_brings_is_refused(
    qwen: Path, stage: Callable[..., int], tmp_path: Path, capsys: Any
) -> None:
    pairs = write_pairs(tmp_path / "pairs.jsonl", make_pairs(qwen, 2))
    assert stage("step-dpo", model={"uri": file_uri(qwen)}, pairs=pairs, training={"layout": "Nobody"}) == 64
    assert "training.layout: nobody brings 'Nobody'; there are OneByOne, Pairs." in capsys.readouterr().err
