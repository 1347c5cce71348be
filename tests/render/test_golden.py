"""What every kind is rendered as. `PSR_WRITE_GOLDEN=1` writes the files anew; read the difference before keeping it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from ruamel.yaml.scalarstring import LiteralScalarString

from tests.render.samples import samples

GOLDEN = Path(__file__).parent / "golden"
SAMPLES = samples()


@pytest.mark.parametrize("name", SAMPLES)
def test_rendered_as_in_the_golden_file(name: str) -> None:
    place = GOLDEN / f"{name}.yaml"
    objects = SAMPLES[name].render()
    if os.environ.get("PSR_WRITE_GOLDEN"):
        write(place, objects)
    assert objects == read(place)


def test_there_is_a_golden_file_of_every_sample_and_no_other() -> None:
    assert {place.stem for place in GOLDEN.glob("*.yaml")} == set(SAMPLES)


def read(place: Path) -> list[Any]:
    return list(YAML(typ="safe", pure=True).load_all(place))


def write(place: Path, objects: list[dict[str, Any]]) -> None:
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.width = 110
    yaml.representer.ignore_aliases = lambda _: True
    with place.open("w") as file:
        yaml.dump_all([_readable(item) for item in objects], file)


def _readable(value: Any) -> Any:
    """The same value, texts of several lines as blocks."""
    if isinstance(value, dict):
        return {key: _readable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_readable(item) for item in value]
    return LiteralScalarString(value) if isinstance(value, str) and "\n" in value else value
