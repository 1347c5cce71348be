"""The stage `report`: `report.html` and `results.json` over the artefacts of a run."""

from __future__ import annotations

import json

from psr_runtime.config import ReportStage
from psr_runtime.config.results import ReportResult
from psr_runtime.report.html import render
from psr_runtime.report.results import collect
from psr_runtime.stage import Outcome, StageContext
from psr_runtime.storage import join

REPORT = "report.html"
RESULTS = "results.json"


def run(config: ReportStage, context: StageContext) -> Outcome:
    """Read the artefacts that `config.models` names and write both files.

    Returns:
        The artefact; its result holds the URIs of both files and the accuracy of each model.

    Raises:
        InputMissing: an artefact is not there.
        DataError: an artefact of another stage, or a broken line in one.
    """
    context.progress.start(2, "files")
    material = collect(config, context.storage)
    folder = context.scratch / "artefact"
    folder.mkdir()
    text = json.dumps(material.results, indent=1, ensure_ascii=False) + "\n"
    (folder / RESULTS).write_text(text, encoding="utf-8")
    context.progress.advance()
    (folder / REPORT).write_text(render(config, material), encoding="utf-8")
    context.progress.advance()
    return Outcome(
        folder,
        result=ReportResult(
            report=join(config.output, REPORT),
            results=join(config.output, RESULTS),
            accuracy={model["model"]: model["accuracy"] for model in material.results["models"]},
        ),
    )
