"""Models that PSR did not make: three families of tokenizers through evaluation and search, on one real server."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.local.command import psr
from tests.models.flavours import FLAVOURS

ROOT = Path(__file__).parents[2]
GSM8K = ROOT.parent / "shared" / "data" / "qwen25_math_eval" / "gsm8k" / "test.jsonl"


@pytest.fixture(scope="session")
def problems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with GSM8K's `test.jsonl`, or with problems of our own in its format."""
    folder = tmp_path_factory.mktemp("data")
    if GSM8K.is_file():
        shutil.copy(GSM8K, folder)
    else:
        print(f"{GSM8K} is not there: problems of our own take its place")
        rows = (
            {
                "question": f"A farmer has {12 + n} hens. Each lays {2 + n % 3} eggs a day. How many eggs in 5 days?",
                "answer": f"A day gives {(12 + n) * (2 + n % 3)} eggs.\n#### {(12 + n) * (2 + n % 3) * 5}",
            }
            for n in range(20)
        )
        (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.mark.engine
@pytest.mark.parametrize("flavour", FLAVOURS)
def test_a_model_from_elsewhere_is_evaluated_and_searched(flavour: str, problems: Path, tmp_path: Path) -> None:
    FLAVOURS[flavour](tmp_path / "models" / "model")
    volume = tmp_path / "volume"
    ended = psr(
        *("run", "-f", ROOT / "examples" / "models" / "any-model.yaml", "--workdir", tmp_path / "work"),
        *("--mount", f"/models={tmp_path / 'models'}", "--mount", f"/data={problems}", "--mount", f"/psr={volume}"),
        seconds=600,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "accuracy 0.0% on 20 problems" in ended.stdout
    assert "0 pairs from 5 problems" in ended.stdout

    evaluation = volume / "any-model" / "default" / "model-gsm8k" / "evaluation"
    predictions = [json.loads(line) for line in (evaluation / "predictions.jsonl").read_text().splitlines()]
    asked = [json.loads(line)["question"] for line in (problems / "test.jsonl").read_text().splitlines()[:20]]
    assert [item["problem"] for item in predictions] == asked
    assert all(item["tokens"] > 0 for item in predictions)

    # Weights that nobody trained write no step header: every candidate is refused, nothing is judged or kept.
    pairs = volume / "any-model" / "default" / "model-pairs" / "pairs"
    result: dict[str, Any] = json.loads((pairs / "manifest.json").read_text())["result"]
    assert result["problems"] == 5
    assert result["outcomes"] == {"RollbackLimit": 5}
    assert result["levels"] == 5 * 4  # three roll-backs, then the end
    assert result["candidates"] == result["malformed"] + result["truncated"] == 5 * 4 * 3
    assert result["verdicts"] == result["pairs"] == 0
