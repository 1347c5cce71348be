"""A real checkpoint whose weights go: what still works with it, and what says why it does not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from psr_runtime.artefacts.checkpoints import fetch_model, fetch_tokenizer
from psr_runtime.artefacts.manifest import require_manifest
from psr_runtime.config import ModelSource
from psr_runtime.protocol.errors import InputMissing
from psr_runtime.storage import Storage, file_uri
from tests.training.tiny_models import PROMPTS, make_pairs, write_ift, write_pairs

TRAINING = {"precision": "float32", "learningRate": 1e-3, "epochs": 1, "globalBatch": 4}


def test_a_pruned_checkpoint_is_an_input_by_digest_and_no_model_any_more(
    stage: Callable[..., int], qwen: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage, m1 = Storage(), file_uri(tmp_path / "m1")
    sft: dict[str, Any] = {
        "model": {"uri": file_uri(qwen)},
        "ift": write_ift(tmp_path / "ift.jsonl", 4),
        "prompts": PROMPTS,
        "training": TRAINING,
    }
    pairs = write_pairs(tmp_path / "pairs.jsonl", make_pairs(qwen, 4))
    dpo = {"model": {"uri": m1}, "pairs": pairs, "training": TRAINING}
    assert stage("sft", "m1", **sft) == 0
    assert stage("step-dpo", "m2", **dpo) == 0
    first = capsys.readouterr().out.splitlines()
    prune = {
        "models": [{"uri": m1, "digest": require_manifest(storage, m1, ("sft",)).identity}],
        "retention": "Last",
        "owner": {"uri": file_uri(tmp_path), "uid": "uid-1", "name": "team/loop"},
    }
    assert stage("prune", "retention", **prune) == 0
    assert json.loads(capsys.readouterr().out)["files"] == 2
    assert sorted(path.name for path in (tmp_path / "m1").rglob("*.safetensors")) == []

    assert stage("sft", "m1", **sft) == 0
    assert stage("step-dpo", "m2", **dpo) == 0
    assert capsys.readouterr().out.splitlines() == first, "what is finished needs no weights"
    assert fetch_tokenizer(storage, ModelSource(uri=m1), tmp_path / "brought").digest

    assert stage("step-dpo", "again", **dpo) == 66
    assert "m1: its weights were pruned by retention Last of run team/loop" in capsys.readouterr().err
    for part in ("training", "serving"):
        with pytest.raises(InputMissing, match="its weights were pruned by retention"):
            fetch_model(storage, ModelSource(uri=m1), tmp_path / "brought", part)
    assert stage("report", "report", title="Loop", models=[{"name": "M1", "checkpoint": m1}]) == 0
