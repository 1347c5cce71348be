"""What `psr run` prints of the objects that work: plain lines where there is no terminal."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from psr_operator.api.common import WorkStatus
from psr_operator.conditions import Transition
from psr_operator.local import display
from tests.planner.world import resource


def test_a_pipe_gets_plain_lines_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(display.time, "monotonic", lambda: now)
    pipe = io.StringIO()
    job = resource(
        "StepDPOJob", model={"uri": "s3://bucket/m"}, pairs="s3://bucket/pairs", storage={"uri": "s3://bucket/runs"}
    )
    job = job.model_copy(update={"status": WorkStatus(step="Training", progress="25%, 30 s left")})
    with display.Display(Console(file=pipe, highlight=False, soft_wrap=True)) as shown:
        shown.progress([job])
        assert pipe.getvalue() == "", "the first line comes when something has lasted"
        now += display.LINE_SECONDS
        shown.progress([job])
        shown.progress([job])
        shown.transition(Transition("StepDPOJob", "it", True, "Retrying", "it-a1 failed: " + "very long " * 30))
        shown.transition(Transition("StepDPOJob", "it", False, "Starting", "says nothing to a person"))
    first, second = pipe.getvalue().splitlines()
    assert re.fullmatch(r"\d\d:\d\d:\d\d  StepDPOJob/it +Training +25%, 30 s left", first)
    assert re.fullmatch(r"\d\d:\d\d:\d\d  StepDPOJob/it +Retrying +it-a1 failed: (very long ?)+", second)
