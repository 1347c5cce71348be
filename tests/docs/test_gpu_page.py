"""docs/gpu-machine.md: its manifest asks for one card at a time, and its sizes and times follow from what it says."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from psr_operator.api import SelfRewardRun
from psr_operator.api.manifest import load_manifests
from psr_operator.cli import command_line, main
from psr_operator.commands.mounts import mounts_of
from psr_operator.local.machine import check_volumes
from tests.docs.pages import ROOT, commands
from tests.planner.world import World

PAGE = ROOT / "docs" / "gpu-machine.md"
MANIFEST = ROOT / "examples" / "gpu" / "run.yaml"
TYPED = [command for command in commands(PAGE) if command.whole]
ROWS = re.findall(r"(?m)^\| (.+?) \| `(.+?)` \| ([\d.,]+) \|$", PAGE.read_text())


def load() -> SelfRewardRun:
    (run,) = load_manifests([MANIFEST])
    assert isinstance(run, SelfRewardRun)
    return run


def test_it_is_typed_from_the_environment_to_the_report(capsys: pytest.CaptureFixture[str]) -> None:
    """What needs no GPU is done: the rehearsal, and the look at volumes that a run begins with."""
    assert [command.words[:2] for command in TYPED] == [
        ["make", "gpu"],
        ["psr", "--version"],
        ["psr", "run"],
        ["psr", "run"],
        ["psr", "wait"],
        ["psr", "report"],
    ]
    rehearsal, run, _, report = (command.words[1:] for command in TYPED[2:])
    assert main([word if word != "examples/gpu/run.yaml" else str(MANIFEST) for word in rehearsal]) == 0
    planned = capsys.readouterr().out
    assert report[1] in planned, "the report that is fetched is one that the run makes"
    check_volumes([load()], mounts_of(command_line().parse_args(run)))
    stages = [line.split()[1] for line in planned.splitlines() if line.startswith("run")]
    assert [stage for stage in stages if stage != "prune"] == [
        *("sft", "evaluate"),
        *("search", "merge", "step-dpo", "evaluate") * 3,
        "report",
    ]


def test_one_card_is_enough(tmp_path: Path) -> None:
    """Server and training take turns on it, and nothing else asks for it."""
    world = World(tmp_path, load())
    asked: dict[str, int] = {}
    while world.step():
        asked |= {work.stage: work.placement.resources.gpus for work in world.node.specs.values()}
        for server in world.node.server_specs.values():
            asked["serve"] = server.placement.resources.gpus * server.replicas
    assert world.condition() == ("Ready", "Succeeded")
    assert {stage: gpus for stage, gpus in asked.items() if gpus} == {"serve": 1, "sft": 1, "step-dpo": 1}


def test_its_settings_are_those_of_a_card() -> None:
    spec = load().spec
    assert spec.search.seeded_requests is False, "seeds force vLLM to sample row by row on CUDA"
    assert not spec.server.engine.enforce_eager
    assert spec.storage.retention == "Last"
    assert all(uri.startswith("hf://") for uri in (spec.model.uri, spec.problems, spec.sft.ift or ""))


@pytest.mark.parametrize(("what", "arithmetic", "result"), ROWS, ids=[row[0][:40] for row in ROWS])
def test_its_numbers_follow(what: str, arithmetic: str, result: str) -> None:
    expression = arithmetic.replace("×", "*").replace("÷", "/")
    assert re.fullmatch(r"[\d.e+*/() ]+", expression), what
    digits = len(result.partition(".")[2])
    assert f"{eval(expression):,.{digits}f}" == result, what


def test_its_numbers_are_those_of_the_manifest() -> None:
    spec = load().spec
    by_stage = {what.split(":")[0]: arithmetic for what, arithmetic, _ in ROWS}
    questions, width = sum(item.questions for item in spec.iterations), spec.search.width
    searched = by_stage["three searches"]
    assert searched.startswith(f"{questions} × ")
    assert f"({width} × 60 + {width * (width - 1)} × 200)" in searched
    assert f" × {spec.sft.training.epochs} × 300 × 6 × 1.54e9" in by_stage["M1"]
    assert by_stage["three DPO trainings"].startswith(f"{questions} × 3 × 2 × ")
    pairs = next(arithmetic for what, arithmetic, _ in ROWS if "micro-batch of 2 pairs" in what)
    assert pairs.startswith(f"{spec.training.micro_batch} × 2 × 500")
    hours = sum(float(result.replace(",", "")) for *_, result in ROWS[-5:]) / 3600
    assert hours == pytest.approx(1.75, abs=0.05)
    assert "about an hour and three quarters" in PAGE.read_text()
    assert PAGE.read_text().count("measured") == 1


def test_make_gpu_installs_the_lock_for_gpus() -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(r"(?m)^gpu: \$\(GPU\)/ready ## ", makefile)
    assert "$(GPU)/ready: requirements/gpu.txt pyproject.toml" in makefile
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert any(item.startswith("vllm==") for item in extras["gpu"])
