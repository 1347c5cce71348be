"""A stage of a test: it writes a text in capitals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from psr_runtime.__main__ import main
from psr_runtime.artefacts.fetching import read_file
from psr_runtime.config import StageConfig, Uri, input_uri, method
from psr_runtime.config.results import StageResult
from psr_runtime.stage import Outcome, StageContext, run_stage
from psr_runtime.stages import STAGES, Makes, Stage, register
from psr_runtime.storage import Storage, file_uri


class ShoutStage(StageConfig):
    text: Uri = input_uri(description="What is said.")
    times: int = method(1, ge=1, description="How often.")


class ShoutResult(StageResult):
    letters: int = 0


def shout(config: ShoutStage, context: StageContext) -> Outcome:
    text = context.storage.read(config.text).decode().upper() * config.times
    (context.scratch / "shout.txt").write_text(text)
    return Outcome(context.scratch, {"loud": True}, ShoutResult(letters=len(text)))


def test_it_runs_by_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text").write_text("hello")
    config = {"output": file_uri(tmp_path / "out"), "text": file_uri(tmp_path / "text"), "times": 2}
    (tmp_path / "config.json").write_text(json.dumps(config))
    register(Stage("shout", "say it loudly", ShoutStage, ShoutResult, Makes.REPORT, shout))
    try:
        assert main(["shout", "--config", str(tmp_path / "config.json")]) == 0
        result = json.loads(capsys.readouterr().out)
        assert (result["output"], result["letters"]) == (config["output"], 10)
        assert read_file(Storage(), config["output"], "shout.txt") == b"HELLOHELLO"
        assert run_stage("shout", json.dumps(config)) == 0
        assert json.loads(capsys.readouterr().out) == result, "it stands already"
        assert run_stage("shout", json.dumps(config | {"times": 3})) == 65
        assert main(["shout", "--schema"]) == 0
        assert json.loads(capsys.readouterr().out)["properties"]["times"]["minimum"] == 1
    finally:
        del STAGES["shout"]
    with pytest.raises(SystemExit, match="2"):
        main(["shout", "--schema"])
