"""A `psr run` that is interrupted, killed, watched and waited for, with real processes and a stand-in for vLLM."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from psr_operator.cli import main
from psr_runtime.storage import file_uri
from tests.local.command import PSR, StandIn, manifest, psr, start_psr, until, write

Fields = dict[str, Any]
LINE = re.compile(r"\d\d:\d\d:\d\d  \w+/[-a-z0-9]+ +[A-Z]\w+( .*)?")
"""A line of `psr run` in a pipe."""


class Running:
    """A `psr run` in the background."""

    def __init__(self, folder: Path, stand_in: StandIn, *arguments: str) -> None:
        self.log = folder / "psr.log"
        self.work = folder / "work"
        self.process = start_psr(
            *("run", "-f", folder / "run.yaml", "--workdir", self.work, *arguments),
            log=self.log,
            environment=stand_in.environment,
        )

    def says(self, text: str, count: int = 1) -> None:
        """Wait until the log holds a text so often."""
        until(lambda: self.log.read_text().count(text) >= count or self.process.poll() is not None, text)
        assert self.log.read_text().count(text) >= count, self.log.read_text()

    def family(self) -> list[psutil.Process]:
        """Every process that it started."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def end(self, by: signal.Signals) -> int:
        self.process.send_signal(by)
        return self.process.wait(60)


@pytest.fixture
def start(tmp_path: Path, stand_in: StandIn) -> Iterator[Callable[..., Running]]:
    started: list[Running] = []

    def start(*arguments: str) -> Running:
        started.append(Running(tmp_path, stand_in, *arguments))
        return started[-1]

    yield start
    for running in started:
        if running.process.poll() is None:
            running.process.send_signal(signal.SIGTERM)
            running.process.wait(60)


@pytest.fixture
def evaluation(common: Fields, problems: Path) -> Fields:
    """Four problems, asked one after the other."""
    return manifest(
        *("ModelEvaluation", "test"),
        **common,
        problems=file_uri(problems),
        evaluation={"concurrency": 1},
        server={"inline": {}},
    )


def test_interrupted_and_run_again_it_goes_on(
    evaluation: Fields, stand_in: StandIn, start: Callable[..., Running], tmp_path: Path
) -> None:
    write(tmp_path / "run.yaml", evaluation)
    stand_in.hold_after(2)
    first = start()
    until(lambda: len(stand_in.asked) == 2, "two answers")
    until(lambda: _logged(tmp_path) == 2, "two answers in the log")
    family = first.family()
    assert first.end(signal.SIGINT) == 75
    assert "ModelEvaluation/test is not finished; run it again and it goes on from here" in first.log.read_text()
    assert not [item for item in family if item.is_running()]

    stand_in.release()
    assert main(["wait", "ModelEvaluation/test", "--workdir", str(first.work), "--timeout", "0"]) == 2
    waiting = subprocess.Popen([*PSR, "wait", "ModelEvaluation/test", "--workdir", str(first.work)])
    again = psr("run", "-f", tmp_path / "run.yaml", "--workdir", first.work, environment=stand_in.environment)
    assert again.returncode == 0, again.stderr
    assert waiting.wait(60) == 0
    assert len(stand_in.asked) == len(set(stand_in.asked)) == 4, "an answer was asked for twice"
    for line in again.stdout.splitlines():
        assert LINE.fullmatch(line), line
    assert "Succeeded          accuracy 0.0% on 4 problems" in again.stdout

    third = psr("run", "-f", tmp_path / "run.yaml", "--workdir", first.work, environment=stand_in.environment)
    assert third.returncode == 0, third.stderr
    assert len(stand_in.asked) == 4, "what is finished is not done again"


def test_killed_it_leaves_no_process_and_the_next_run_waits_for_the_folder(
    evaluation: Fields, stand_in: StandIn, start: Callable[..., Running], tmp_path: Path
) -> None:
    write(tmp_path / "run.yaml", evaluation)
    stand_in.hold_after(1)
    first = start()
    until(lambda: len(stand_in.asked) == 1, "an answer")
    family = first.family()
    assert len(family) >= 4, "server, leash, vLLM and evaluation"
    first.process.kill()
    first.process.wait()
    assert psutil.wait_procs(family, timeout=60)[1] == [], "processes outlive psr run"

    stand_in.release()
    with open(first.work / "lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        second = start()
        second.says(f"{first.work} is in use; waiting for the processes of the other run to end")
        assert len(stand_in.asked) == 1
    second.says("accuracy 0.0% on 4 problems")
    assert second.process.wait(60) == 0


def test_a_watched_manifest_is_applied_as_it_is_saved(
    common: Fields, evaluation: Fields, problems: Path, stand_in: StandIn, start: Callable[..., Running], tmp_path: Path
) -> None:
    """Suspended, resumed, suspended while it works; a round appended; a change that is refused."""
    path = tmp_path / "run.yaml"
    loop = manifest(
        "SelfRewardRun", "loop", **common, problems=file_uri(problems), iterations=[{"questions": 1}], suspend=True
    )
    evaluation["spec"]["suspend"] = True
    write(path, loop, evaluation)
    stand_in.hold_after(1)
    running = start("--watch")
    running.says("suspended; set suspend: false to go on", 2)

    evaluation["spec"]["suspend"] = False
    write(path, loop, evaluation)
    until(lambda: len(stand_in.asked) == 1, "an answer")
    until(lambda: _logged(tmp_path) == 1, "an answer in the log")
    family = running.family()
    evaluation["spec"]["suspend"] = True
    write(path, loop, evaluation)
    running.says("suspended; set suspend: false to go on", 3)
    assert psutil.wait_procs(family, timeout=60)[1] == [], "something runs while all is suspended"

    loop["spec"]["iterations"].append({"questions": 2})
    evaluation["spec"]["suspend"] = False
    stand_in.release()
    write(path, loop, evaluation)
    running.says("accuracy 0.0% on 4 problems")
    stored = (running.work / "objects" / "SelfRewardRun-loop.json").read_text()
    assert '"questions": 2' in stored
    assert len(stand_in.asked) == len(set(stand_in.asked)) == 4

    loop["spec"]["iterations"][0]["questions"] = 3
    write(path, loop, evaluation)
    running.says("SelfRewardRun/loop: spec.iterations decides what is computed and cannot be changed; give the object")
    running.says('put it back: it was [{"questions": 1, "allowReuse": false}, {"questions": 2, ')
    path.write_text("kind: [")
    running.says(f"{path}, line 1: ")
    assert running.end(signal.SIGTERM) == 75, "the run is still suspended"


def test_wait_distinguishes_failure_from_a_timeout(
    common: Fields, stand_in: StandIn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "run.yaml", manifest("StepDPOJob", "train", **common, pairs="file:///nowhere"))
    wait = ["wait", "StepDPOJob/train", "--workdir", str(tmp_path / "work"), "--timeout", "0"]
    assert main(wait) == 2
    assert "StepDPOJob/train is not there yet\n" in capsys.readouterr().out
    assert psr("run", "--no-check", "-f", path, "--workdir", tmp_path / "work").returncode == 66
    assert main(wait) == 1
    assert "StepDPOJob/train InputMissing: file:///nowhere: nothing is there" in capsys.readouterr().out


def test_a_terminal_gets_a_bar(evaluation: Fields, stand_in: StandIn, tmp_path: Path) -> None:
    path = write(tmp_path / "run.yaml", evaluation)
    stand_in.hold_after(2)
    shown = tmp_path / "screen"
    code: list[int] = []

    def read(descriptor: int) -> bytes:
        try:
            data = os.read(descriptor, 65536)
        except OSError:  # how Linux says that the other end is closed
            return b""
        with open(shown, "ab") as file:
            file.write(data)
        screen = shown.read_text(errors="replace")
        if (stand_in.folder / "hold").exists() and "━" in screen and "50%" in screen:
            stand_in.release()
        return data

    command = [*PSR, "run", "-f", str(path), "--workdir", str(tmp_path / "work")]
    environment = [f"{key}={value}" for key, value in (stand_in.environment | {"TERM": "xterm"}).items()]
    code.append(os.waitstatus_to_exitcode(pty.spawn(["env", *environment, *command], read)))
    screen = shown.read_text(errors="replace")
    assert code == [0], screen
    assert re.search(r"ModelEvaluation/test +Evaluating +━+ +50%", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen)), (
        screen
    )
    assert "\x1b[" in screen
    assert "accuracy 0.0% on 4 problems" in screen


def _logged(folder: Path) -> int:
    """Answers that the evaluation has on disk."""
    log = folder / "out" / "default" / "test" / "evaluation" / "log"
    return sum(len(path.read_text().splitlines()) for path in log.rglob("*") if path.is_file())
