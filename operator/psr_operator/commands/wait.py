"""`psr wait`: until an object of a `psr run`, or of a cluster, is Ready or Stalled."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from psr_operator.api import KINDS
from psr_operator.api.manifest import ManifestError
from psr_operator.local.store import stored_object

NAME = "wait"
SUMMARY = "wait for an object of a psr run or of a cluster"
DESCRIPTION = (
    "Wait until an object is Ready (exit 0) or Stalled (exit 1); exit 2 when the time is over. With --workdir an "
    "object of a psr run, else one of the cluster of the kubeconfig."
)
EXAMPLES = """\
  psr wait SelfRewardRun/demo --workdir out/demo/work
  psr wait SelfRewardRun/math --namespace team  of a cluster
"""
FOLDER_POLL_SECONDS = 0.2
CLUSTER_POLL_SECONDS = 1.0

Read = Callable[[], Mapping[str, Any] | None]
"""Reads the object as it is now; None where there is none."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which object, where it is, and how long to wait."""
    parser.add_argument("object", metavar="KIND/NAME", help="SelfRewardRun/demo, say")
    parser.add_argument("--workdir", type=Path, metavar="DIR", help="work folder of the psr run")
    parser.add_argument("-n", "--namespace", default="default", metavar="NAME", help="of the object (default: default)")
    parser.add_argument(
        "--kubeconfig", metavar="FILE", help="default: $KUBECONFIG, ~/.kube/config or the pod's account"
    )
    parser.add_argument("--timeout", type=float, default=3600.0, metavar="SECONDS", help="default: 3600")


def execute(options: argparse.Namespace) -> int:
    """Wait, and print a line whenever the object's state changes. Returns 0 for Ready, 1 for Stalled, 2 for neither."""
    kind, slash, name = options.object.partition("/")
    if not slash or kind not in KINDS:
        raise ManifestError(f"{options.object}: write KIND/NAME with one of {', '.join(sorted(KINDS))}")
    if options.workdir is not None:
        read, poll_seconds = _from_folder(options.workdir, kind, name), FOLDER_POLL_SECONDS
    else:
        read, poll_seconds = _from_cluster(options, kind, name), CLUSTER_POLL_SECONDS
    deadline = time.monotonic() + options.timeout
    shown = ""
    while True:
        document = read() or {}
        conditions = {item["type"]: item for item in document.get("status", {}).get("conditions", [])}
        ready = conditions.get("Ready")
        line = (
            f"{options.object} {ready['reason']}: {ready.get('message', '')}"
            if ready
            else f"{options.object} is not there yet"
        )
        if line != shown:
            shown = line
            print(line, flush=True)
        if ready and ready["status"] == "True":
            return 0
        if conditions.get("Stalled", {}).get("status") == "True":
            return 1
        if time.monotonic() >= deadline:
            print(f"{options.object} is not Ready after {options.timeout:.0f} s", file=sys.stderr)
            return 2
        time.sleep(poll_seconds)


def _from_folder(folder: Path, kind: str, name: str) -> Read:
    return lambda: stored_object(folder, kind, name)


def _from_cluster(options: argparse.Namespace, kind: str, name: str) -> Read:
    try:
        from psr_operator.controller.wait import CannotRead, Reader  # kopf: only an object of a cluster needs it
    except ImportError as error:
        raise ManifestError(
            f"an object of a cluster needs psr[operator] ({error}); for a psr run give --workdir"
        ) from error
    reader = Reader(kind, options.namespace, name, options.kubeconfig)

    def read() -> Mapping[str, Any] | None:
        try:
            return reader.read()
        except CannotRead as error:
            raise ManifestError(f"{kind}/{name}: {error}") from error

    return read
