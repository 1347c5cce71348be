"""Things that would wait for ever end: a rehearsal of what never ends, a lock that is held, a suspended manifest."""

from __future__ import annotations

import fcntl
import threading
from pathlib import Path

import pytest

from psr_operator.cli import main
from psr_operator.local.executor import WorkFolder
from psr_runtime.protocol.errors import Interrupted

SERVER = """
apiVersion: psr.dev/v1alpha1
kind: PolicyServer
metadata: {name: alone}
spec: {model: {uri: file:///models/it}}
"""

SUSPENDED = """
apiVersion: psr.dev/v1alpha1
kind: StepDPOJob
metadata: {name: later}
spec:
  suspend: true
  model: {uri: file:///models/it}
  pairs: file:///pairs
  storage: {uri: file:///runs}
"""


def test_a_rehearsal_of_a_server_alone_ends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "server.yaml").write_text(SERVER)
    assert main(["run", "-f", str(tmp_path / "server.yaml"), "--dry-run"]) == 0
    assert "file:///models/it" in capsys.readouterr().out


def test_a_suspended_manifest_ends_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "job.yaml").write_text(SUSPENDED)
    assert main(["run", "-f", str(tmp_path / "job.yaml"), "--dry-run"]) == 0
    assert main(["run", "-f", str(tmp_path / "job.yaml"), "--workdir", str(tmp_path / "work")]) == 75
    assert "StepDPOJob/later is suspended; set suspend: false" in capsys.readouterr().err


def test_waiting_for_the_work_folder_can_be_stopped(tmp_path: Path) -> None:
    lines: list[str] = []
    stop = threading.Event()
    with open(tmp_path / "lock", "a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        threading.Timer(0.3, stop.set).start()
        with pytest.raises(Interrupted, match="still in use"):
            WorkFolder(tmp_path, lines.append, stop)
    assert len(lines) == 1
