"""A small run that is done by half: its inputs, its manifest, and `psr run` with a stand-in for vLLM."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from tests.local.command import manifest
from tests.search.language import PROMPTS, write_model, write_problems

ROOT = Path(__file__).parents[2]
NAME = "loop"
MOUNT = "/psr"
TRAINING = {"learningRate": 1e-3, "maxLength": 128, "precision": "float32", "checkpointDtype": "float32"}
STEPS = ["Step 1: 2 + 1 = 3.\n", "Step 2: 3 + 1 = 4;\n", "Step 3: So it is \\boxed{4}"]
RUN: dict[str, Any] = manifest(
    "SelfRewardRun",
    NAME,
    storage={"uri": f"file://{MOUNT}/runs", "volume": {"claimName": "psr", "mountPath": MOUNT}},
    model={"uri": f"file://{MOUNT}/input/model"},
    prompts=PROMPTS,
    sft={
        "ift": f"file://{MOUNT}/input/ift.jsonl",
        "eft": f"file://{MOUNT}/input/eft.jsonl",
        "training": {**TRAINING, "epochs": 2, "globalBatch": 4},
    },
    problems=f"file://{MOUNT}/input/problems.jsonl",
    iterations=[{"questions": 4}, {"questions": 4}],
    search={"width": 4, "temperature": 1.0, "topP": 1.0, "maxStepTokens": 8, "acceptUnanimous": True},
    judge={"temperature": 1.0, "maxTokens": 4},
    training={**TRAINING, "epochs": 10, "globalBatch": 1, "saveSteps": 5},
    evaluations=[{"name": "fresh", "problems": f"file://{MOUNT}/input/test.jsonl", "evaluation": {"maxTokens": 32}}],
    searchShards=2,
    server={"engine": {"dtype": "float32"}},
)


def write_inputs(folder: Path) -> None:
    """Model, records and problems of the run."""
    write_model(folder / "model")
    write_problems(folder / "problems.jsonl", 8)
    write_problems(folder / "test.jsonl", 4)
    problem = "How much is 2 + 1 + 1?"
    (folder / "ift.jsonl").write_text((json.dumps({"problem": problem, "steps": STEPS}) + "\n") * 4)
    judged = {
        "problem": problem,
        "a": "Step 1: 2 + 1 = 3.",
        "b": "Step 1: 2 + 1 = 4.",
        "judgement": "A is right. [[A]]",
    }
    (folder / "eft.jsonl").write_text((json.dumps(judged) + "\n") * 4)


def environment() -> dict[str, str]:
    """In it servers run the stand-in instead of vLLM."""
    path = [str(Path(__file__).with_name("stand_in")), str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {"PYTHONPATH": os.pathsep.join(filter(None, path)), "OMP_NUM_THREADS": "1"}


def arguments(folder: Path | str) -> list[str]:
    """What `psr` is told for the run whose manifest, work folder and volume lie in a folder."""
    return ["run", "-f", f"{folder}/run.yaml", "--workdir", f"{folder}/work", "--mount", f"{MOUNT}={folder}/volume"]
