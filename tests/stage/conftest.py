from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from echo_stage import ECHO, Ended

from psr_runtime import stage
from psr_runtime.stages import STAGES
from psr_runtime.storage import file_uri


@pytest.fixture(autouse=True)
def _scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed stages leave their scratch folder: let that be where everything of a test is."""
    (tmp_path / "scratch").mkdir()
    monkeypatch.setenv("PSR_SCRATCH", str(tmp_path / "scratch"))


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    """A configuration of the echo stage whose input exists."""
    (tmp_path / "source.txt").write_text("world\n")
    return {"output": file_uri(tmp_path / "out"), "source": file_uri(tmp_path / "source.txt")}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Run a stage in this process: `run(config, field=value, …)`."""
    monkeypatch.setitem(STAGES, "echo", ECHO)
    message = tmp_path / "termination"
    monkeypatch.setenv("PSR_TERMINATION_MESSAGE", str(message))

    def run(config: dict[str, Any] | str, name: str = "echo", **changed: Any) -> Ended:
        message.unlink(missing_ok=True)
        capsys.readouterr()
        document = config if isinstance(config, str) else json.dumps(config | changed)
        code = stage.run_stage(name, document)
        captured = capsys.readouterr()
        return Ended(code, captured.out, captured.err, json.loads(message.read_text()))

    return run
