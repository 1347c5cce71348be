"""The demo's inputs, small, with its manifest: a place where faults are planted."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from psr_operator.cli import main

DEMO = Path(__file__).parents[2] / "examples" / "demo"
sys.path.insert(0, str(DEMO))


@dataclass
class Planted:
    """The demo in a folder of its own.

    Attributes:
        volume: what stands for `/psr`.
        document: its manifest; `spec` is changed in place.
    """

    volume: Path
    document: dict[str, Any]

    @property
    def spec(self) -> dict[str, Any]:
        spec: dict[str, Any] = self.document["spec"]
        return spec

    @property
    def inputs(self) -> Path:
        return self.volume / "input"

    @property
    def manifest(self) -> Path:
        place = self.volume.parent / "run.yaml"
        place.write_text(json.dumps(self.document))
        return place

    def check(self, *options: str) -> int:
        """`psr check` on it, in this process: its exit code."""
        return main(["check", "-f", str(self.manifest), "--mount", f"/psr={self.volume}", *options])

    def lines(self, name: str) -> list[dict[str, Any]]:
        """The records of a data set."""
        return [json.loads(line) for line in (self.inputs / name).read_text().splitlines()]

    def write(self, name: str, records: list[dict[str, Any]]) -> None:
        """Replace a data set."""
        (self.inputs / name).write_text("".join(json.dumps(record) + "\n" for record in records))

    def edit(self, name: str, **fields: Any) -> None:
        """Change fields of a JSON file of the model; None takes one away."""
        place = self.inputs / "base" / name
        document = json.loads(place.read_text()) | fields
        place.write_text(json.dumps({key: value for key, value in document.items() if value is not None}))


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the demo's model and a few of its records."""
    import make_data as demo

    folder = tmp_path_factory.mktemp("inputs")
    (folder / "base").mkdir()
    for name, document in (
        ("config.json", demo.model_config()),
        ("generation_config.json", demo.generation_config()),
        ("tokenizer.json", demo.tokenizer()),
        ("tokenizer_config.json", demo.tokenizer_config()),
    ):
        (folder / "base" / name).write_text(json.dumps(document))
    for name, records in demo.data_sets(0, ift=400, eft=300, search=700, test=40).items():
        (folder / name).write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


@pytest.fixture
def planted(demo: Path, tmp_path: Path) -> Planted:
    shutil.copytree(demo, tmp_path / "volume" / "input")
    document = YAML(typ="safe").load((DEMO / "run.yaml").read_text())
    return Planted(tmp_path / "volume", json.loads(json.dumps(document)))
