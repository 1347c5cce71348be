"""Stopped or killed at any moment and run again, a training leaves the bytes of an undisturbed one."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.s3_server import start_s3
from psr_runtime.config import StorageAccess
from psr_runtime.progress import Progress
from psr_runtime.stage import run_stage
from psr_runtime.storage import Storage, file_uri
from psr_runtime.training.resume import ResumeStates
from tests.training.tiny_models import PROMPTS, make_pairs, write_eft, write_ift, write_pairs

SETTINGS = {"learningRate": 1e-3, "epochs": 2, "globalBatch": 4, "precision": "float32", "saveSteps": 2}


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it, no handler runs."""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, qwen: Path) -> dict[str, dict[str, Any]]:
    """Configurations of both stages, 10 updates each."""
    folder = tmp_path_factory.mktemp("data")
    model = {"uri": file_uri(qwen)}
    return {
        "sft": {
            "model": model,
            "ift": write_ift(folder / "ift.jsonl", 12),
            "eft": write_eft(folder / "eft.jsonl", 8),
            "prompts": PROMPTS,
            "training": SETTINGS,
        },
        "step-dpo": {
            "model": model,
            "pairs": write_pairs(folder / "pairs.jsonl", make_pairs(qwen, 20)),
            "training": SETTINGS,
        },
    }


@pytest.fixture(scope="module")
def undisturbed(work: dict[str, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Files of each stage's artefact after a run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    for name, fields in work.items():
        assert run_stage(name, json.dumps({"output": file_uri(folder / name), **fields})) == 0
    return {name: files(folder / name) for name in work}


def files(folder: Path) -> dict[str, bytes]:
    """Path -> bytes of everything but the seconds that it took, and but for the name of the folder itself."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes().replace(file_uri(folder).encode(), b"OUTPUT")
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "timings.json"
    }


def stop_after(monkeypatch: pytest.MonkeyPatch, updates: int) -> None:
    """Send SIGTERM to this process once so many updates are done."""
    plain = Progress.advance
    seen = []

    def advance(self: Progress, count: int = 1, **extra: float) -> None:
        plain(self, count, **extra)
        if "loss" in extra and seen.append(count) is None and len(seen) == updates:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Progress, "advance", advance)


@pytest.mark.parametrize("name", ["sft", "step-dpo"])
@pytest.mark.parametrize("updates", [1, 4, 7, 10])
def test_sigterm_stores_a_state_from_which_the_same_bits_follow(
    work: dict[str, dict[str, Any]],
    undisturbed: dict[str, dict[str, bytes]],
    stage: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    updates: int,
) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, updates)
        assert stage(name, **work[name]) == 75
    assert "run it again" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out" / "resume").iterdir() if path.is_dir()] == [str(updates)]

    counted = []
    with monkeypatch.context() as patch:
        patch.setattr(Progress, "start", lambda self, total, unit, done=0: counted.append((unit, done)))
        assert stage(name, **work[name]) == 0
    again = [("pairs scored", 0)] if name == "step-dpo" else []  # the trained policy; not the reference again
    assert counted == [("updates", updates), *again]
    assert files(tmp_path / "out") == undisturbed[name]


@pytest.mark.parametrize("name", ["sft", "step-dpo"])
def test_killed_before_or_after_any_write_it_ends_with_the_same_bits(
    work: dict[str, dict[str, Any]],
    undisturbed: dict[str, dict[str, bytes]],
    stage: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    """One output, killed again and again, a little later each time; every write of a run is a place to die."""
    kills = 0
    for operation in range(1, 400, 7):
        with monkeypatch.context() as patch:
            die_at(patch, operation, after=operation % 2 == 0)
            try:
                assert stage(name, **work[name]) == 0
            except Killed:
                kills += 1
                continue
        break
    assert kills >= 4
    assert files(tmp_path / "out") == undisturbed[name]


def die_at(monkeypatch: pytest.MonkeyPatch, operation: int, *, after: bool) -> None:
    """Die before or after the storage operation with this number."""
    counter: Iterator[int] = iter(range(1, 10_000))

    def deadly(plain: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            now = next(counter) == operation
            if now and not after:
                raise Killed
            value = plain(*arguments, **named)
            if now:
                raise Killed
            return value

        return call

    for method in ("write", "create", "upload", "delete", "delete_folder"):
        monkeypatch.setattr(Storage, method, deadly(getattr(Storage, method)))


def test_a_process_killed_in_the_middle_is_taken_up_by_the_next(
    work: dict[str, dict[str, Any]], stage: Callable[..., int], tmp_path: Path
) -> None:
    """A real process and a real SIGKILL, once its first state stands."""
    fields = {**work["step-dpo"], "training": {**SETTINGS, "epochs": 40, "saveSteps": 20}}
    assert stage("step-dpo", "undisturbed", **fields) == 0

    document = json.dumps({"output": file_uri(tmp_path / "killed"), **fields})
    process = multiprocessing.get_context("fork").Process(target=run_stage, args=("step-dpo", document))
    process.start()
    end = time.monotonic() + 120
    try:
        while not list(tmp_path.glob("killed/resume/*/complete.json")):
            assert process.is_alive(), "the process ended before it could be killed"
            assert time.monotonic() < end
            time.sleep(0.002)
    finally:
        process.kill()
        process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not (tmp_path / "killed" / "manifest.json").exists()
    assert stage("step-dpo", "killed", **fields) == 0
    assert files(tmp_path / "killed") == files(tmp_path / "undisturbed")


def test_on_s3_a_stopped_training_goes_on_to_the_same_weights(
    work: dict[str, dict[str, Any]],
    undisturbed: dict[str, dict[str, bytes]],
    qwen: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Model, pairs, states and checkpoint all lie in a bucket."""
    with start_s3(tmp_path / "s3") as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        access = StorageAccess(endpoint=server.endpoint)
        storage, bucket = Storage(access), f"s3://{server.bucket}"
        for path in qwen.iterdir():
            storage.upload(path, f"{bucket}/model/{path.name}")
        storage.write(f"{bucket}/pairs.jsonl", Storage().read(work["step-dpo"]["pairs"]))
        fields = {**work["step-dpo"], "model": {"uri": f"{bucket}/model"}, "pairs": f"{bucket}/pairs.jsonl"}
        document = json.dumps({"output": f"{bucket}/out", "storage": access.to_json(), **fields})

        with monkeypatch.context() as patch:
            stop_after(patch, 5)
            assert run_stage("step-dpo", document) == 75
        assert storage.exists(f"{bucket}/out/resume/5/complete.json")
        assert run_stage("step-dpo", document) == 0
        weights = storage.read(f"{bucket}/out/master/model.safetensors")
        assert weights == undisturbed["step-dpo"]["master/model.safetensors"]
        assert storage.list(f"{bucket}/out/resume") == []


def test_states_are_complete_or_absent_and_only_the_newest_stays(tmp_path: Path) -> None:
    states = ResumeStates(Storage(), file_uri(tmp_path / "resume"), "sha256:1")
    for update in (5, 10):
        folder = tmp_path / f"made-{update}"
        folder.mkdir()
        (folder / "weights").write_bytes(b"w" * update)
        states.keep(folder, update)
    assert sorted(path.name for path in (tmp_path / "resume").iterdir()) == ["10"]
    newest = states.newest(tmp_path / "here")
    assert newest == (tmp_path / "here" / "10", 10)
    assert (newest[0] / "weights").read_bytes() == b"w" * 10

    (tmp_path / "resume" / "12").mkdir()
    (tmp_path / "resume" / "12" / "weights").write_bytes(b"half")  # a killed process left it without a marker
    assert states.newest(tmp_path / "again") == (tmp_path / "again" / "10", 10)
    assert not (tmp_path / "resume" / "12").exists()

    (tmp_path / "resume" / "10" / "weights").write_bytes(b"x" * 10)  # changed after it was written
    assert states.newest(tmp_path / "third") is None


def test_states_of_another_configuration_are_not_taken_up(tmp_path: Path) -> None:
    folder = tmp_path / "made"
    folder.mkdir()
    (folder / "weights").write_bytes(b"w")
    uri = file_uri(tmp_path / "resume")
    ResumeStates(Storage(), uri, "sha256:1").keep(folder, 3)
    ResumeStates(Storage(), uri, "sha256:1").keep_scores([[0.5, -1.25]])
    assert ResumeStates(Storage(), uri, "sha256:1").scores() == [[0.5, -1.25]]
    assert ResumeStates(Storage(), uri, "sha256:2").scores() is None
    assert ResumeStates(Storage(), uri, "sha256:2").newest(tmp_path / "here") is None
