"""examples/h100 says what the paper says, fits the hardware that it names, and is refused where it must be."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from psr_operator.api import SelfRewardRun
from psr_operator.api.manifest import load_manifests
from psr_runtime.config import method_fields
from tests.docs.pages import ROOT
from tests.planner.world import World

FOLDER = ROOT / "examples" / "h100"
PAPER = {"run-7b.yaml": 7.62, "run-72b.yaml": 72.7}
"""Runs of the paper: billions of parameters."""
ONE_GPU = ("run-1.5b.yaml", "step-dpo.yaml")
H100_GB = 80
BYTES_TRAINED, BYTES_SERVED, BYTES_STORED = 16, 2, 6
"""Of a parameter: float32 with gradient and AdamW; bfloat16; both copies of a checkpoint."""


def load(name: str) -> Any:
    (run,) = load_manifests([FOLDER / name])
    assert isinstance(run, SelfRewardRun)
    return run


@pytest.mark.parametrize("name", PAPER)
def test_the_paper_s_settings(name: str) -> None:
    """Paper §4."""
    spec = load(name).spec
    assert [item.questions for item in spec.iterations] == [400, 800, 1200]
    assert (spec.sft.training.epochs, spec.sft.training.learning_rate, spec.sft.training.global_batch) == (3, 1e-6, 32)
    assert (spec.training.epochs, spec.training.learning_rate, spec.training.global_batch) == (1, 5e-7, 32)
    search = spec.search
    assert (search.width, search.max_iterations, search.temperature, search.top_p) == (6, 20, 0.5, 0.95)
    benchmarks = {"gsm8k", "math", "gaokao2023en", "olympiadbench", "aime2024", "amc2023"}
    assert {item.name for item in spec.evaluations} == benchmarks
    assert f"Qwen2.5-Math-{name[4:-5].upper()}" in spec.model.uri


def test_both_sizes_differ_in_nothing_else_that_decides_the_result() -> None:
    small, large = (method_fields(load(name).spec) for name in PAPER)
    for fields in (small, large):
        del fields["report"]["title"]
    assert small == large


@pytest.mark.parametrize("name", PAPER)
def test_it_fits_the_hardware(name: str) -> None:
    spec = load(name).spec
    training, server = spec.training_resources, spec.server
    gpus = training.nodes * training.gpus
    assert spec.training.global_batch % gpus == 0
    assert PAPER[name] * BYTES_TRAINED / gpus < H100_GB * 0.6, "room for what the sequences need"
    assert server.engine.tensor_parallel == server.resources.gpus
    assert PAPER[name] * BYTES_SERVED / server.resources.gpus < H100_GB * 0.6, "room for the KV cache"
    assert server.replicas * server.resources.gpus <= gpus, "server and training take turns on the same nodes"
    assert 8 % server.resources.gpus == 0, "replicas fill nodes of 8"


@pytest.mark.parametrize("name", PAPER)
def test_training_on_several_gpus_is_refused_with_words(name: str, tmp_path: Path) -> None:
    """And nothing is started. When that is built, this test and the sentences that it holds to are to go."""
    world = World(tmp_path, load(name))
    world.finish()
    assert world.condition() == ("Stalled", "NotSupported")
    assert world.node.order == []
    assert world.node.servers == {}
    assert "Stalled/NotSupported" in (FOLDER / name).read_text()
    assert "`Stalled/NotSupported`" in (FOLDER / "README.md").read_text()


@pytest.mark.parametrize("name", PAPER)
def test_an_m1_from_elsewhere_is_searched_and_evaluated_before(name: str, tmp_path: Path) -> None:
    """As the page says."""
    run = load(name)
    world = World(tmp_path, run.model_copy(update={"spec": run.spec.model_copy(update={"sft": None})}))
    world.finish()
    assert world.condition() == ("Stalled", "NotSupported")
    stages = [world.node.specs[name].stage for name in world.node.order]
    assert sorted(stages) == ["evaluate"] * 6 + ["merge", "search"]


@pytest.mark.parametrize("name", ONE_GPU)
def test_one_gpu_is_enough_for_the_others(name: str, tmp_path: Path) -> None:
    for item in load_manifests([FOLDER / name]):
        world = World(tmp_path / item.metadata.name, item)
        asked: dict[str, int] = {}
        while world.step():
            asked |= {work.stage: work.placement.resources.gpus for work in world.node.specs.values()}
            for server in world.node.server_specs.values():
                asked["serve"] = server.placement.resources.gpus
        assert world.condition() == ("Ready", "Succeeded")
        assert {stage: gpus for stage, gpus in asked.items() if gpus} == dict.fromkeys(
            {"serve", "sft", "step-dpo"} & set(asked), 1
        )


def test_the_sizes_of_the_page() -> None:
    page = (FOLDER / "README.md").read_text()
    rows = {row.split(" | ")[0].lstrip("| "): row.split(" | ")[1:] for row in page.splitlines() if row.startswith("| ")}
    sizes = (1.54, *PAPER.values())
    for words, bytes_each in (
        ("weights, gradients", BYTES_TRAINED),
        ("the server", BYTES_SERVED),
        ("a checkpoint", BYTES_STORED),
    ):
        (cells,) = (cells for head, cells in rows.items() if head.startswith(words))
        said = [int(re.findall(r"[\d,]+", cell)[0].replace(",", "")) for cell in cells]
        assert said == [round(size * bytes_each) for size in sizes], words
