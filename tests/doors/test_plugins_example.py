"""examples/plugins: installed as its page says, its judge, grader and storage scheme are found by name."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from psr_runtime.data.records import Pair, Tree
from psr_runtime.storage import file_uri
from tests.search.language import search_fields, write_problems

ROOT = Path(__file__).parents[2]
UV = ROOT / ".venv" / "uv" / "bin" / "uv"

RUN = """
import sys
from psr_runtime import engine
from psr_runtime.search import stage as search_stage
from psr_runtime.stage import run_stage
from tests.search.standin import StandIn

for module in (engine, search_stage):
    module.open_engine = lambda endpoint, digest: StandIn()
sys.exit(run_stage(sys.argv[1], sys.argv[2]))
"""


def install(source: Path, target: Path) -> Path:
    """Install the package into a folder of its own, without any index."""
    options = ["--offline", "--no-deps", "--no-build-isolation", "--python", sys.executable, "--target", str(target)]
    done = subprocess.run([UV, "pip", "install", *options, str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return target


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plugins")
    shutil.copytree(ROOT / "examples" / "plugins", folder / "source")
    return install(folder / "source", folder / "site")


def run(stage: str, site: Path | None, shares: Path, **config: Any) -> subprocess.CompletedProcess[str]:
    """A stage in a process that has the package on its path, or has not, with a stand-in for the server."""
    path = [str(ROOT), *([str(site)] if site else [])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path), "PSR_MOUNTS": f"/shares={shares}"}
    command = [sys.executable, "-W", "ignore", "-c", RUN, stage, json.dumps(config)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)


def searched(site: Path | None, speaker: Path, tmp_path: Path, output: str) -> subprocess.CompletedProcess[str]:
    problems = tmp_path / "problems.jsonl"
    if not problems.exists():
        write_problems(problems, 8)
    config = {**search_fields(speaker, problems), "judge": {"strategy": "Shortest"}, "output": output}
    return run("search", site, tmp_path / "shares", **config)


def test_its_judge_and_its_storage_serve_a_search(installed: Path, speaker: Path, tmp_path: Path) -> None:
    done = searched(installed, speaker, tmp_path, "share://team/pairs")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["output"] == "share://team/pairs"
    folder = tmp_path / "shares" / "team" / "pairs"
    trees = [Tree.model_validate_json(line) for line in (folder / "trees.jsonl").read_text().splitlines()]
    for level in (level for tree in trees for level in tree.levels):
        assert level.scores == [None if item.fault else 1 / len(item.text) for item in level.candidates]
        assert level.verdicts == []
    pairs = [Pair.model_validate_json(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
    assert all(len(pair.chosen) < len(pair.rejected) for pair in pairs)


def test_its_version_is_part_of_the_digest(installed: Path, speaker: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(ROOT / "examples" / "plugins", source)
    project = source / "pyproject.toml"
    project.write_text(project.read_text().replace('version = "1.0.0"', 'version = "1.0.1"'))
    later = install(source, tmp_path / "site")
    runs = [
        searched(site, speaker, tmp_path, file_uri(tmp_path / name))
        for site, name in ((installed, "a"), (installed, "b"), (later, "c"))
    ]
    assert [done.returncode for done in runs] == [0, 0, 0], [done.stderr for done in runs]
    first, again, other = (json.loads((tmp_path / name / "manifest.json").read_text()) for name in "abc")
    assert first["digest"] == again["digest"] != other["digest"]
    assert first["files"] == other["files"]


def test_its_grader_grades_an_evaluation(installed: Path, speaker: Path, tmp_path: Path) -> None:
    problems = tmp_path / "graded.jsonl"
    lines = [{"problem": "How much is 2 + 1 + 1?", "answer": answer} for answer in ("4", "4.0", "")]
    problems.write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = {
        "model": {"uri": file_uri(speaker)},
        "problems": file_uri(problems),
        "prompts": {"solve": "{problem}"},
        "evaluation": {"grader": "Exact", "maxTokens": 40},
        "server": {"urls": ["http://127.0.0.1:9"]},
        "output": "share://team/accuracy",
    }
    done = run("evaluate", installed, tmp_path / "shares", **config)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["correct"], result["problems"], result["empty_gold"]) == (1, 3, 1)


def test_without_the_package_its_names_are_refused(speaker: Path, tmp_path: Path) -> None:
    done = searched(None, speaker, tmp_path, file_uri(tmp_path / "pairs"))
    assert done.returncode == 64
    assert "judge.strategy: nobody brings 'Shortest'; there are Pairwise." in done.stderr
    done = searched(None, speaker, tmp_path, "share://team/pairs")
    assert done.returncode == 64
    assert "nobody brings 'share'; there are file, hf, s3." in done.stderr
