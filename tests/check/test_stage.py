"""The stage `check` under the stage contract: findings as an artefact, or all errors in one last message."""

from __future__ import annotations

import json

import pytest

from psr_operator.api.manifest import load_manifests
from psr_operator.planner.checking import check_configuration
from psr_runtime.protocol import MOUNTS_VARIABLE, TERMINATION_VARIABLE, FailureReason, TerminationMessage
from psr_runtime.stage import run_stage
from tests.check.conftest import Planted


def run_check(planted: Planted, monkeypatch: pytest.MonkeyPatch) -> tuple[int, TerminationMessage]:
    """The stage, as a pod of the run would do it."""
    last = planted.volume.parent / "last"
    monkeypatch.setenv(MOUNTS_VARIABLE, f"/psr={planted.volume}")
    monkeypatch.setenv(TERMINATION_VARIABLE, str(last))
    (run,) = load_manifests([planted.manifest])
    run = run.model_copy(update={"metadata": run.metadata.model_copy(update={"uid": "1"})})
    configuration = check_configuration(run)
    assert configuration is not None
    code = run_stage("check", json.dumps(configuration.to_json()))
    return code, TerminationMessage.read(last.read_text())


def test_findings_and_estimate_are_an_artefact(planted: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    planted.spec["trainingResources"] = {"gpus": 1}  # of other pods
    code, message = run_check(planted, monkeypatch)
    assert code == 0
    assert message.result is not None
    assert message.result["warnings"] == 0
    folder = planted.volume / "runs" / "default" / "demo" / "check"
    findings = json.loads((folder / "findings.json").read_text())
    assert len(findings) == message.result["facts"] > 10
    stages = json.loads((folder / "estimate.json").read_text())
    assert stages[0]["stage"] == "SFT"
    assert message.result["tokens"] == pytest.approx(sum(item["trained"] + item["sampled"] for item in stages), abs=20)


def test_all_errors_are_told_in_the_last_message(planted: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason is that of the worst, and nothing is published."""
    planted.spec["evaluations"][0]["problems"] = "file:///psr/input/tset.jsonl"
    planted.spec["iterations"][0]["questions"] = 5000
    code, message = run_check(planted, monkeypatch)
    assert code == 65
    assert message.reason is FailureReason.DATA_ERROR
    assert message.error.startswith("2 errors. (1) spec.iterations: ")
    assert "(2) spec.evaluations[fresh].problems: file:///psr/input/tset.jsonl: no such file" in message.error
    assert not (planted.volume / "runs" / "default" / "demo" / "check" / "manifest.json").exists()


def test_it_may_be_tried_again_once_the_input_is_there(planted: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    tests = planted.inputs / "test.jsonl"
    kept = tests.read_bytes()
    tests.unlink()
    code, message = run_check(planted, monkeypatch)
    assert (code, message.reason) == (66, FailureReason.INPUT_MISSING)
    tests.write_bytes(kept)
    assert run_check(planted, monkeypatch)[0] == 0
