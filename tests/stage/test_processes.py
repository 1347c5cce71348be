"""Stages as processes: signals, kills, the progress port, a full disk, the command line."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from echo_stage import contents
from prometheus_client.parser import text_string_to_metric_families

from psr_runtime.__main__ import main
from psr_runtime.artefacts.journal import Journal
from psr_runtime.artefacts.manifest import MANIFEST
from psr_runtime.stages import STAGES
from psr_runtime.storage import Storage, file_uri, join

Config = dict[str, Any]
PROGRAM = [sys.executable, str(Path(__file__).with_name("echo_stage.py")), "echo"]
SECONDS = 60.0


class Running:
    """A slow echo stage: it says each line it has logged, and waits for leave to go on."""

    def __init__(self, config: Config, **environment: str) -> None:
        self.process = subprocess.Popen(
            PROGRAM,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PSR_STAGE_CONFIG": json.dumps(config | {"slow": True}), **environment},
        )

    def read_line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def go_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("go on\n")
        self.process.stdin.flush()

    def end(self, by: signal.Signals) -> tuple[int, str]:
        """Send a signal; the exit code and what stood on standard error."""
        self.process.send_signal(by)
        self.go_on()
        return self.process.wait(SECONDS), self.process.communicate()[1]


@pytest.fixture
def start() -> Iterator[Callable[..., Running]]:
    started: list[Running] = []

    def start(config: Config, **environment: str) -> Running:
        started.append(Running(config, **environment))
        return started[-1]

    yield start
    for running in started:
        running.process.kill()
        running.process.communicate()


def call(config: Config, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROGRAM, *arguments],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env={**os.environ, "PSR_STAGE_CONFIG": json.dumps(config), **environment},
    )


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_stage_exits_75_and_goes_on_later(
    config: Config, start: Callable[..., Running], tmp_path: Path, by: signal.Signals
) -> None:
    running = start(config, PSR_TERMINATION_MESSAGE=str(tmp_path / "message"))
    first = json.loads(running.read_line())
    code, error = running.end(by)
    assert code == 75
    assert "run it again and it goes on from here" in error
    assert json.loads((tmp_path / "message").read_text())["error"] in error
    assert not (tmp_path / "out" / MANIFEST).exists()
    again = call(config)
    assert again.returncode == 0, again.stderr
    lines = (tmp_path / "out/parts/lines.jsonl").read_text().splitlines()
    assert json.loads(lines[0]) == first
    assert len(lines) == 3
    assert not (tmp_path / "out/log").exists(), "half-done work is removed once the manifest stands"


def test_killed_at_any_line_the_artefact_is_the_same(
    config: Config, start: Callable[..., Running], tmp_path: Path
) -> None:
    assert call(config).returncode == 0
    (tmp_path / "out").rename(tmp_path / "undisturbed")
    for line in range(3):
        running = start(config)
        assert json.loads(running.read_line())["n"] == line, "what is logged is not done again"
        running.process.send_signal(signal.SIGKILL)
        running.process.wait(SECONDS)
        assert len(Journal(Storage(), join(config["output"], "log")).replay()) == line + 1
    assert call(config).returncode == 0
    written = {name: content for name, (content, _, _) in contents(tmp_path / "out").items()}
    expected = {name: content for name, (content, _, _) in contents(tmp_path / "undisturbed").items()}
    for files in (written, expected):
        files.pop("timings.json")
    assert written == expected


# --- the progress port -------------------------------------------------------------------------------------


def ask(port: int, path: str) -> tuple[str, str]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=SECONDS) as answer:
        return answer.headers["Content-Type"], answer.read().decode()


def test_progress_and_metrics_are_served(config: Config, start: Callable[..., Running], tmp_path: Path) -> None:
    file = tmp_path / "port"
    running = start(config, PSR_PROGRESS_PORT="0", PSR_PROGRESS_PORT_FILE=str(file))
    running.read_line()
    running.go_on()
    running.read_line()
    port = int(file.read_text())
    kind, text = ask(port, "/progress")
    progress = json.loads(text)
    assert kind == "application/json"
    assert progress.pop("eta") >= 0
    assert progress == {"stage": "echo", "done": 2, "total": 3, "unit": "lines", "length": 11.0}
    kind, text = ask(port, "/metrics")
    assert kind.startswith("text/plain; version=0.0.4")
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    assert {(s.name, s.labels["stage"]): s.value for s in samples if s.name != "psr_stage_eta"} == {
        ("psr_stage_done", "echo"): 2,
        ("psr_stage_total", "echo"): 3,
        ("psr_stage_length", "echo"): 11,
    }
    with pytest.raises(urllib.error.HTTPError, match="404") as caught:
        ask(port, "/other")
    caught.value.close()

    taken = call(config | {"output": file_uri(tmp_path / "other")}, PSR_PROGRESS_PORT=str(port))
    assert taken.returncode == 75
    assert f"PSR_PROGRESS_PORT {port} cannot be bound" in taken.stderr


def test_a_pipe_gets_plain_lines(config: Config) -> None:
    ended = call(config)
    assert "echo: 3/3 lines" in ended.stderr
    assert "\x1b" not in ended.stderr
    assert json.loads(ended.stdout)["lines"] == 3


# --- a full disk -------------------------------------------------------------------------------------------

FULL_DISK = """
set -e
mount -t tmpfs -o size=1m none "$1"
head -c 900k /dev/zero > "$1/filler"
set +e
shift
"$@"; echo "code $?"
find "$DISK" -type f | sort
rm "$DISK/filler"
"$@"; echo "code $?"
"""


def private_mounts() -> list[str]:
    """A command prefix under which this user may mount a file system that nobody else sees."""
    for options in ("-m", "-rm"):
        probe = ["unshare", options, "sh", "-c", "mount -t tmpfs none /mnt"]
        if shutil.which("unshare") and subprocess.run(probe, capture_output=True).returncode == 0:
            return ["unshare", options]
    pytest.skip("a full disk needs a small file system, and this user may not mount one (unshare -rm failed)")


@pytest.mark.parametrize("full", ["output", "scratch"])
def test_a_full_disk_is_temporary(config: Config, tmp_path: Path, full: str) -> None:
    (tmp_path / "disk").mkdir()
    config = config | {"padding": 30_000, "count": 8}
    environment = {}
    if full == "output":
        config["output"] = file_uri(tmp_path / "disk/out")
    else:
        environment["PSR_SCRATCH"] = str(tmp_path / "disk")
    ended = subprocess.run(
        [*private_mounts(), "sh", "-c", FULL_DISK, "sh", str(tmp_path / "disk"), *PROGRAM],
        capture_output=True,
        text=True,
        timeout=2 * SECONDS,
        env={**os.environ, "DISK": str(tmp_path / "disk"), "PSR_STAGE_CONFIG": json.dumps(config), **environment},
    )
    lines = ended.stdout.splitlines()
    assert lines[0] == "code 75", ended.stderr
    assert "o space left on device" in ended.stderr or "no space left on the device" in ended.stderr
    assert str(tmp_path / "disk") in ended.stderr
    left = lines[1 : lines.index(next(line for line in lines if line.startswith("{")))]
    begun = ["begun.json", "log/segment-1.jsonl"] if full == "output" else []
    assert left == [str(tmp_path / "disk/filler"), *(str(tmp_path / "disk/out" / name) for name in begun)]
    assert json.loads(lines[-2])["lines"] == 8
    assert lines[-1] == "code 0"


# --- the command line --------------------------------------------------------------------------------------


def test_the_command_line_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("PSR_STAGE_CONFIG", raising=False)
    (tmp_path / "wrong.json").write_text('{"output": "file:///out", "parts": []}')
    for arguments, message in [
        ([], "set PSR_STAGE_CONFIG or give --config FILE"),
        (["--config", f"{tmp_path}/gone.json"], f"{tmp_path}/gone.json: cannot be read"),
        (["--config", f"{tmp_path}/wrong.json"], f"merge: {tmp_path}/wrong.json: parts: List should have at least 1"),
    ]:
        assert main(["merge", *arguments]) == 64
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", STAGES)
def test_each_stage_prints_its_schema(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--schema"]) == 0
    assert "output" in json.loads(capsys.readouterr().out)["required"]


def test_the_program_ends_with_the_stage_s_exit_code() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "psr_runtime", "merge"],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env={**os.environ, "PSR_STAGE_CONFIG": '{"output": "file:///out"}'},
    )
    assert (ended.returncode, "merge: PSR_STAGE_CONFIG: parts: Field required" in ended.stderr) == (64, True)


def test_an_answer_that_stands_needs_no_frameworks(config: Config) -> None:
    """Asking for a finished result is quick: nothing heavy is imported."""
    assert call(config).returncode == 0
    loaded = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; sys.argv = ['x', 'echo']; import echo_stage; "
            "echo_stage.register(echo_stage.ECHO); code = echo_stage.main(); "
            "assert not {'torch', 'transformers', 'boto3'} & set(sys.modules); sys.exit(code)",
        ],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        env={**os.environ, "PSR_STAGE_CONFIG": json.dumps(config)},
    )
    assert loaded.returncode == 0, loaded.stderr
