"""Implementations by name: ours, one of this process, one that an installed package brings, and none."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from psr_runtime.config.plugins import Registry
from psr_runtime.protocol.errors import ConfigurationError


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry[object]:
    """A registry of one name of ours, with a package on the path that brings three more, two of them broken."""
    (tmp_path / "toys.dist-info").mkdir()
    (tmp_path / "toys.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: toys\nVersion: 1.2\n")
    points = "Toy = toys:TOY\nGone = toys:GONE\nLost = lost:LOST\nOurs = toys:TOY\n"
    (tmp_path / "toys.dist-info/entry_points.txt").write_text(f"[psr.toys]\n{points}")
    (tmp_path / "toys.py").write_text("TOY = 'of the package'\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    return Registry("psr.toys", "toy.name", {"Ours": "psr_runtime.protocol:RESULT_BYTES"})


def test_each_is_loaded_by_its_name(registry: Registry[object]) -> None:
    assert registry.load("Ours") == 2048, "a name of ours is ours, whatever else has it"
    assert registry.load("Toy") == "of the package"
    registry.register("Mine")("of this process")
    assert registry.load("Mine") == "of this process"
    assert registry.names() == ["Gone", "Lost", "Mine", "Ours", "Toy"]
    registry.unregister("Mine")
    assert "Mine" not in registry.names()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("None", r"toy\.name: nobody brings 'None'; there are Gone, Lost, Ours, Toy\. .* in the group psr\.toys"),
        ("Gone", r"toy\.name Gone: toys:GONE of toys 1\.2 cannot be imported"),
        ("Lost", r"toy\.name Lost: lost:LOST of toys 1\.2 cannot be imported \(No module named 'lost'\)"),
    ],
)
def test_what_cannot_be_loaded_is_explained(registry: Registry[object], name: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        registry.load(name)
