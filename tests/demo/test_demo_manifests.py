"""The demo's manifests belong together: a control changes what it says and nothing else, a seed the seed alone."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from psr_operator.api.manifest import load_manifests

DEMO = Path(__file__).parents[2] / "examples" / "demo"


def _spec(name: str) -> dict[str, Any]:
    (run,) = load_manifests([DEMO / name])
    spec: dict[str, Any] = run.spec.to_json()
    return spec


@pytest.mark.parametrize(
    ("name", "control"), [("control-random.yaml", "Random"), ("control-inverted.yaml", "Inverted")]
)
def test_a_control_differs_in_its_verdicts_alone(name: str, control: str) -> None:
    demo, changed = _spec("run.yaml"), _spec(name)
    assert changed["judge"].pop("control") == control
    assert demo["judge"].pop("control") == "None"
    assert changed["model"]["uri"] == "file:///psr/runs/default/demo/m1", "it starts from the demo's M1"
    for key in ("model", "sft", "report"):
        demo.pop(key, None)
        changed.pop(key, None)
    assert changed == demo


def _seeds() -> ModuleType:
    spec = importlib.util.spec_from_file_location("demo_seeds", DEMO / "seeds.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["demo_seeds"] = module
    spec.loader.exec_module(module)
    return module


def test_another_seed_changes_the_seed_alone(tmp_path: Path) -> None:
    manifest = tmp_path / "run.yaml"
    manifest.write_text(_seeds().with_seed((DEMO / "run.yaml").read_text(), 7))
    (run,) = load_manifests([manifest])
    assert run.spec.to_json() == _spec("run.yaml") | {"seed": 7}


def test_the_table_of_seeds_has_a_row_a_seed() -> None:
    models = [
        {"model": "M1", "accuracy": 0.5, "pairs": 240, "judge": {"accuracy_on_own_candidates": 0.998}},
        {"model": "M2", "accuracy": 0.75, "pairs": None},
    ]
    assert _seeds().table({0: {"models": models}, 3: {"models": models}}).splitlines() == [
        "| seed | M1 | M2 | judge on own candidates | pairs |",
        "| --- | --- | --- | --- | --- |",
        "| 0 | 50.0 | 75.0 | 99.8 | 240 |",
        "| 3 | 50.0 | 75.0 | 99.8 | 240 |",
    ]
