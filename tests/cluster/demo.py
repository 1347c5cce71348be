"""The demo's manifest cut to one iteration, as a team would apply it: inputs and artefacts in S3."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from psr_runtime.artefacts.manifest import Manifest, digest_of_input, read_manifest
from psr_runtime.storage import Storage

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "examples" / "demo"
RUN = "demo"
INPUT = "file:///psr/input"


def make_inputs(folder: Path) -> Path:
    """The demo's inputs, made by its own script."""
    subprocess.run([sys.executable, DEMO / "make_data.py", "--out", folder], check=True, stdout=subprocess.DEVNULL)
    return folder


def cut(inputs: str, storage: dict[str, Any], iterations: int | None = 1, **fields: Any) -> dict[str, Any]:
    """The manifest of the demo.

    Args:
        inputs: URI of its inputs.
        storage: `spec.storage`.
        iterations: how many; None for all.
        fields: of the spec, instead of the demo's.
    """
    text = (DEMO / "run.yaml").read_text().replace(INPUT, inputs)
    manifest: dict[str, Any] = json.loads(json.dumps(YAML(typ="safe", pure=True).load(text)))
    spec = manifest["spec"]
    spec["storage"] = storage
    spec["iterations"] = spec["iterations"][:iterations]
    spec.update(fields)
    return manifest


def lineage(storage: Storage, uri: str, expected: str | None = None) -> dict[str, Manifest | None]:
    """Every artefact that one was made from, by URI, itself included; None for an input that was made elsewhere.

    Raises:
        AssertionError: an artefact is not there, or is not the one that was read.
    """
    artefacts: dict[str, Manifest | None] = {}
    waiting: list[tuple[str, str | None]] = [(uri, expected)]
    while waiting:
        place, digest = waiting.pop()
        manifest = read_manifest(storage, place)
        there = manifest.identity if manifest is not None else digest_of_input(storage, place)
        assert digest in (None, there), f"{place}: is {there}, was read as {digest}"
        if place not in artefacts and manifest is not None:
            waiting += [(entry.uri, entry.digest) for entry in manifest.inputs.values()]
        artefacts[place] = manifest
    return artefacts
