"""The images: small where they must be, nobody's root, nothing in them that builds, and each does its work."""

from __future__ import annotations

import json
import os
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from harness.control_plane.plane import ControlPlane
from harness.node.images import BASE, BUILDAH, DEPENDENCIES, INFERENCE, OPERATOR, OURS, RUNTIME, TAG, size
from harness.node.parts import CTR
from images.build import NAMES, STANDS_ON, run

FORBIDDEN = ("gcc", "cc", "make", "uv", "hatchling", "git")
OPERATOR_LIMIT = 150e6
"""Bytes beyond the base."""

pytestmark = pytest.mark.skipif(
    bool(os.environ.get("PSR_TEST_KUBECONFIG")),
    reason="images are looked at where `make cluster-up` has built them; a named cluster brings its own",
)


@cache
def configuration(tag: str) -> dict[str, Any]:
    configuration: dict[str, Any] = json.loads(run(*BUILDAH, "inspect", "--type=image", tag))["OCIv1"]
    return configuration


@pytest.mark.parametrize("repository", OURS)
def test_it_says_what_it_is_and_runs_as_nobody(cluster: ControlPlane, repository: str) -> None:
    config = configuration(f"{repository}:{TAG}")["config"]
    assert config["User"] == "65532:65532"
    labels = {key.removeprefix("org.opencontainers.image."): value for key, value in config["Labels"].items()}
    assert labels["licenses"] == "Apache-2.0"
    assert labels["version"] == "0.1.0"
    assert len(labels["revision"]) == 40
    assert labels["title"].startswith("PSR ")
    assert labels["description"]


def test_the_operator_is_small(cluster: ControlPlane) -> None:
    beyond = size(f"{OPERATOR}:{TAG}") - size(BASE)
    print(f"\noperator: {beyond / 1e6:.0f} MB beyond its base")
    assert 10e6 < beyond < OPERATOR_LIMIT


def test_the_heavy_layer_is_shared(cluster: ControlPlane) -> None:
    """Stages and servers stand on one image: a node that has one of them loads only what the other adds."""
    shared = configuration(DEPENDENCIES)["rootfs"]["diff_ids"]
    for name in (RUNTIME, INFERENCE):
        layers = configuration(f"{name}:{TAG}")["rootfs"]["diff_ids"]
        assert layers[: len(shared)] == shared
        assert len(layers) > len(shared)


@pytest.mark.parametrize("repository", OURS)
def test_nothing_in_it_builds(cluster: ControlPlane, repository: str) -> None:
    program = (
        "import importlib.util, shutil; "
        f"print([name for name in {FORBIDDEN!r} if shutil.which(name) or importlib.util.find_spec(name)])"
    )
    assert _in(repository, "python3", "-c", program).strip() == "[]"


@pytest.mark.parametrize(
    ("repository", "command", "said"),
    [
        (OPERATOR, ("psr", "operator", "--help"), "--runtime-image"),
        (RUNTIME, ("python", "-m", "psr_runtime", "search", "--schema"), '"SearchStage"'),
        (INFERENCE, ("python3", "-m", "psr_runtime", "serve", "--help"), "serve a model with vLLM"),
        (INFERENCE, ("python3", "-c", "import vllm; print(vllm.__name__)"), "vllm"),
    ],
)
def test_it_does_its_work_on_a_read_only_root(
    cluster: ControlPlane, repository: str, command: tuple[str, ...], said: str
) -> None:
    assert said in _in(repository, *command)


def _in(repository: str, *command: str) -> str:
    """Run a command in an image with a read-only root; its output."""
    name = f"look-{os.getpid()}"
    words = ["run", "--rm", "--read-only", "--mount", "type=tmpfs,dst=/tmp,options=rw"]
    words += ["--env", "HOME=/tmp", f"{repository}:{TAG}", name]
    done = subprocess.run([*CTR, *words, *command], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_the_release_is_built_by_the_same_words(cluster: ControlPlane) -> None:
    """`make images` takes the Dockerfiles that were tried here; nothing of the test node is in them."""
    for name in NAMES:
        text = (Path(__file__).parents[2] / "images" / name / "Dockerfile").read_text()
        assert "psr.test" not in text
        assert {key: text.count(f"ARG {key}=") for key in STANDS_ON[name]} == dict.fromkeys(STANDS_ON[name], 1)
        assert name == "tools" or "USER 65532:65532" in text
