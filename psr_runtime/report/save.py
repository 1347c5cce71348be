"""A report artefact as two files in a folder, with the results of control runs beside the run's own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from psr_runtime.artefacts.fetching import read_file
from psr_runtime.artefacts.manifest import require_manifest
from psr_runtime.report.compare import table, with_controls
from psr_runtime.storage import Storage


def save_report(storage: Storage, uri: str, folder: Path, controls: Mapping[str, str]) -> str:
    """Write `report.html` and `results.json` into `folder`.

    Args:
        uri: report artefact of the run.
        controls: name of a control -> report artefact of a run that started from the same first model.

    Returns:
        The table of models as plain text.

    Raises:
        InputMissing: one of the reports is not there.
        DataError: one of the URIs holds something else.
    """
    results = with_controls(_results(storage, uri), {name: _results(storage, at) for name, at in controls.items()})
    page = read_file(storage, uri, "report.html")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.html").write_bytes(page)
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return table(results)


def _results(storage: Storage, uri: str) -> dict[str, Any]:
    require_manifest(storage, uri, ("report",))
    results: dict[str, Any] = json.loads(read_file(storage, uri, "results.json"))
    return results
