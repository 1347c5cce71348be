"""A run that the first version began with `psr run` and left half done is finished by the version of the day.

M1, its evaluation and the pairs of the first round are taken over as they are; the step-DPO that was interrupted goes
on from its state. `README.md` says what was recorded.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.before.half_done import NAME, arguments, environment
from tests.local.command import psr

RECORDED = Path(__file__).with_name("run.tar.gz")
FINISHED = {
    f"SFTJob/{NAME}-sft": "m1",
    f"ModelEvaluation/{NAME}-m1-fresh": "evaluations/m1/fresh",
    f"PreferenceGeneration/{NAME}-1-pairs": "iteration-1/pairs",
}
"""What was finished when the run was interrupted, and where its artefact lies."""
MARK = 123.0
"""A loss that no training gives."""


@dataclass(frozen=True)
class Finished:
    """The run after `psr run` of the day.

    Attributes:
        before, after: of every finished file, its sha256 and when it was last written.
    """

    folder: Path
    process: subprocess.CompletedProcess[str]
    before: dict[str, tuple[str, int]]
    after: dict[str, tuple[str, int]]

    @property
    def artefacts(self) -> Path:
        return artefacts_of(self.folder)

    def inputs(self, name: str) -> dict[str, Any]:
        """What an artefact was made from, as its manifest says."""
        inputs: dict[str, Any] = json.loads((self.artefacts / name / "manifest.json").read_text())["inputs"]
        return inputs

    def identity(self, name: str) -> str:
        """By which digest later stages know an artefact."""
        return f"sha256:{sha256_of(self.artefacts / name / 'manifest.json')}"

    def status(self, kind: str, name: str) -> dict[str, Any]:
        """The status of an object in the work folder."""
        document: dict[str, Any] = json.loads((self.folder / "work" / "objects" / f"{kind}-{name}.json").read_text())
        return dict(document["status"])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("before")
    with tarfile.open(RECORDED) as archive:
        archive.extractall(folder, filter="data")
    mark_training(artefacts_of(folder) / "m2" / "resume")
    before = finished_files(folder)
    process = psr(*arguments(folder), environment=environment())
    assert process.returncode == 0, process.stdout + process.stderr
    return Finished(folder, process, before, finished_files(folder))


def test_the_run_is_ready(run: Finished) -> None:
    waited = psr("wait", f"SelfRewardRun/{NAME}", "--workdir", run.folder / "work", "--timeout", "0")
    assert waited.returncode == 0, waited.stdout + waited.stderr
    assert [line.split()[0] for line in run.process.stdout.splitlines() if line.startswith("M")] == ["M1", "M2", "M3"]


def test_what_was_finished_is_the_very_same_bytes(run: Finished) -> None:
    assert len(run.before) >= 20
    assert run.after == run.before


def test_nothing_finished_is_carried_out_again(run: Finished) -> None:
    """Not even a process that finds its artefact there."""
    for item in FINISHED:
        assert item not in run.process.stdout
    started = [path.name for path in (run.folder / "work" / "workloads").iterdir()]
    for item in FINISHED:
        assert not [name for name in started if name.startswith(item.partition("/")[2])], started
    assert any(name.startswith(f"{NAME}-1-dpo-") for name in started), started


def test_the_objects_say_of_finished_work_what_they_said(run: Finished) -> None:
    with tarfile.open(RECORDED) as archive:
        for item in FINISHED:
            kind, _, name = item.partition("/")
            file = archive.extractfile(f"work/objects/{kind}-{name}.json")
            assert file is not None
            before, after = json.load(file)["status"], run.status(kind, name)
            for field in ("output", "digest", "done", "attempts"):
                assert after[field] == before[field], f"{item}: {field}"


def test_the_interrupted_training_went_on_from_its_state(run: Finished) -> None:
    """Its state was marked before; training anew would not know of the mark."""
    losses = [json.loads(line)["loss"] for line in (run.artefacts / "m2" / "updates.jsonl").read_text().splitlines()]
    assert losses[0] == MARK
    assert len(losses) == 70
    assert MARK not in losses[1:]


def test_the_later_models_descend_from_what_was_there(run: Finished) -> None:
    models = run.status("SelfRewardRun", NAME)["models"]
    assert [(model["name"], model["digest"]) for model in models] == [
        (name.upper(), run.identity(name)) for name in ("m1", "m2", "m3")
    ]
    for name, parent, pairs in (("m2", "m1", "iteration-1/pairs"), ("m3", "m2", "iteration-2/pairs")):
        made_from = run.inputs(name)
        assert made_from["model.uri"]["digest"] == run.identity(parent)
        assert made_from["pairs"]["digest"] == run.identity(pairs)
    results = json.loads((run.artefacts / "report" / "m3" / "results.json").read_text())
    assert [model["model"] for model in results["models"]] == ["M1", "M2", "M3"]


def artefacts_of(folder: Path) -> Path:
    """Where the run's artefacts lie."""
    return folder / "volume" / "runs" / "default" / NAME


def finished_files(folder: Path) -> dict[str, tuple[str, int]]:
    """sha256 and time of writing of every file of the finished artefacts."""
    root = artefacts_of(folder)
    paths = [path for place in FINISHED.values() for path in sorted((root / place).rglob("*")) if path.is_file()]
    return {path.relative_to(root).as_posix(): (sha256_of(path), path.stat().st_mtime_ns) for path in paths}


def sha256_of(path: Path) -> str:
    """sha256 of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def mark_training(resume: Path) -> None:
    """Write another loss of the first update into the state of a training."""
    (complete,) = resume.glob("*/complete.json")
    path = complete.with_name("trainer_state.json")
    state = json.loads(path.read_text())
    state["log_history"][0]["loss"] = MARK
    path.write_text(json.dumps(state))
    document = json.loads(complete.read_text())
    document["files"][path.name] = {"size": path.stat().st_size, "sha256": sha256_of(path)}
    complete.write_text(json.dumps(document))
