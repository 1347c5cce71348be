"""What the chart renders for three sets of values. `PSR_WRITE_GOLDEN=1` writes the files anew; read the difference."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.chart.generated import CHART
from tests.chart.helm import Helm, parsed

HERE = Path(__file__).parent
VALUES = {
    "defaults": None,
    "everything": HERE / "values" / "everything.yaml",
    "h100": CHART / "examples" / "h100.yaml",
}


@pytest.mark.parametrize("name", VALUES)
def test_rendered_as_in_the_golden_file(helm: Helm, name: str) -> None:
    place = HERE / "golden" / f"{name}.yaml"
    rendered = helm.template(VALUES[name])
    if os.environ.get("PSR_WRITE_GOLDEN"):
        place.write_text(rendered)
    assert by_name(rendered) == by_name(place.read_text())


def test_there_is_a_golden_file_of_every_set_and_every_example_is_one() -> None:
    assert {place.stem for place in (HERE / "golden").iterdir()} == set(VALUES)
    assert set((CHART / "examples").iterdir()) <= set(VALUES.values())


def by_name(text: str) -> dict[tuple[str, str, str], Any]:
    """The objects of a stream, by kind, namespace and name: their order is helm's affair."""
    objects = parsed(text)
    named = {(item["kind"], item["metadata"].get("namespace", ""), item["metadata"]["name"]): item for item in objects}
    assert len(named) == len(objects), "two objects of a name"
    return named
