"""`psr report`: a run's report page and its results, copied out of the storage."""

from __future__ import annotations

import argparse
from pathlib import Path

from psr_operator.api.manifest import ManifestError
from psr_operator.commands.mounts import add_mounts, mounts_of
from psr_runtime.storage import Storage

NAME = "report"
SUMMARY = "fetch a run's report, with its controls"
DESCRIPTION = (
    "Copy report.html and results.json of a report artefact into a folder, put the results of control runs "
    "beside them, and print the table."
)
EXAMPLES = """\
  psr report file:///psr/runs/default/demo/report/m4 --mount /psr=out/demo/volume --to out/demo
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The artefact, its controls, and the folder for the copy."""
    parser.add_argument("uri", metavar="URI", help="report artefact of the run")
    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="folder for report.html and results.json")
    parser.add_argument(
        "--control", action="append", default=[], metavar="NAME=URI", help="report artefact of a control run"
    )
    add_mounts(parser)


def execute(options: argparse.Namespace) -> int:
    """Copy the report and print its table. Returns 0."""
    from psr_runtime.report.save import save_report  # reads artefacts of evaluations: only this command needs it

    controls = {}
    for item in options.control:
        name, equals, uri = item.partition("=")
        if not equals:
            raise ManifestError(f"--control {item}: write NAME=URI")
        controls[name] = uri
    table = save_report(Storage(mounts=mounts_of(options)), options.uri, options.to, controls)
    print(table)
    print(f"report: {options.to / 'report.html'}\nresults: {options.to / 'results.json'}")
    return 0
