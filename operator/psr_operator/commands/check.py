"""`psr check`: whether manifests can be carried out, before anything is started."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from psr_operator.api.manifest import ManifestError, load_manifests
from psr_operator.commands.mounts import add_mounts, mounts_of
from psr_operator.local.preflight import Checked, check_objects

if TYPE_CHECKING:
    from psr_runtime.check.findings import Finding

NAME = "check"
DEVICES = ("CPU", "L4", "A100", "H100", "H200", "B200")
"""Of the estimate; `psr_runtime.check.estimate` has their data sheets."""
SUMMARY = "look for faults of manifests and their data before anything runs"
DESCRIPTION = (
    "Look at everything that the manifests name, without starting anything: inputs, records, model, tokenizer, "
    "template, lengths, limits, devices, memory, disk, storage, duplicates and contamination. All findings come at "
    "once."
)
EXAMPLES = """\
  psr check -f run.yaml                         everything that would fail later, at once
  psr check -f run.yaml --cluster --json        for a cluster's devices, as JSON
  psr check -f run.yaml --cluster --timeline --price 2.5 --nodes 2
                                                what each stage takes, and what it costs
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The manifests, and how strict the check is."""
    parser.add_argument(
        "-f", "--file", type=Path, action="append", required=True, metavar="FILE", help="manifest (YAML)"
    )
    parser.add_argument(
        "--cluster", action="store_true", help="the work is done elsewhere: leave out this machine's devices and disk"
    )
    parser.add_argument("--strict", action="store_true", help="warnings count as errors (65)")
    parser.add_argument("--timeline", action="store_true", help="print what each stage takes, with its arithmetic")
    parser.add_argument("--price", type=float, metavar="MONEY", help="of one GPU for an hour, for the estimate")
    parser.add_argument("--device", choices=DEVICES, help="of the estimate (default: H100 where GPUs are asked for)")
    parser.add_argument(
        "--nodes", type=int, default=1, metavar="N", help="estimate for N times the replicas and training nodes"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_mounts(parser)


def execute(options: argparse.Namespace) -> int:
    """Check and print a table an object. Returns the contract's code of the worst finding."""
    from psr_runtime.check.findings import exit_code, strict

    if options.nodes < 1:
        raise ManifestError(f"--nodes {options.nodes}: write a number from 1")
    checked = check_objects(
        load_manifests(options.file),
        mounts_of(options),
        here=not options.cluster,
        estimate=True,
        device=options.device,
        nodes=options.nodes,
    )
    if options.strict:
        checked = [
            replace(item, report=replace(item.report, findings=strict(item.report.findings))) for item in checked
        ]
    if options.json:
        document = {
            item.resource.ref: {
                "findings": [entry.to_json() for entry in item.report.findings],
                "estimate": [entry.to_json() for entry in item.report.stages],
            }
            for item in checked
        }
        print(json.dumps(document, indent=1, ensure_ascii=False))
    else:
        _print(checked, options)
    return int(exit_code(_all(checked)))


def before_run(checked: Sequence[Checked]) -> int:
    """Print what speaks against carrying it out, on stderr. Returns the exit code; 0: go on."""
    from psr_runtime.check.findings import Severity, exit_code, table

    for item in checked:
        if any(entry.severity is not Severity.FACT for entry in item.report.findings):
            print(f"{item.resource.ref}, checked before it starts:", file=sys.stderr)
            print(table(item.report.findings, facts=False), file=sys.stderr)
    code = int(exit_code(_all(checked)))
    if code:
        print("nothing was started; psr run --no-check starts it all the same", file=sys.stderr)
    return code


def _print(checked: Sequence[Checked], options: argparse.Namespace) -> None:
    from psr_runtime.check.findings import Severity, table
    from psr_runtime.check.timeline import summary, timeline

    for item in checked:
        print(f"{item.resource.ref}\n{table(item.report.findings)}\n")
        if item.report.stages:
            if options.timeline:
                print(f"{timeline(item.report)}\n")
            print(f"{summary(item.report, options.price)}\n")
        elif options.timeline:
            print("estimate: none, as no IFT and EFT records tell how long steps and judgements are\n")
    counts = {kind: sum(entry.severity is kind for entry in _all(checked)) for kind in Severity}
    print(f"{counts[Severity.ERROR]} errors, {counts[Severity.WARNING]} warnings")


def _all(checked: Sequence[Checked]) -> list[Finding]:
    return [entry for item in checked for entry in item.report.findings]
