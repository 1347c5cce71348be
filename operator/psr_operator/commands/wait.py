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
from psr_runtime.config.spelling import nearest

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


class Unanswered(Exception):
    """Whoever has the object does not answer now; the message says so."""


Read = Callable[[], Mapping[str, Any] | None]
"""Reads the object as it is now; None where there is none."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which object, where it is, and how long to wait."""
    parser.add_argument("object", metavar="KIND/NAME", help="SelfRewardRun/demo, say")
    parser.add_argument("--workdir", type=Path, metavar="DIR", help="work folder of the psr run")
    parser.add_argument("-n", "--namespace", metavar="NAME", help="of the object (default: the context's)")
    parser.add_argument(
        "--kubeconfig", metavar="FILE", help="default: $KUBECONFIG, ~/.kube/config or the pod's account"
    )
    parser.add_argument("--context", metavar="NAME", help="of the kubeconfig (default: its current one)")
    parser.add_argument("--timeout", type=float, default=3600.0, metavar="SECONDS", help="default: 3600")


def execute(options: argparse.Namespace) -> int:
    """Wait, and print a line whenever the object's state changes. Returns 0 for Ready, 1 for Stalled, 2 for neither."""
    kind, slash, name = options.object.partition("/")
    if not slash or kind not in KINDS:
        short = {item.short_name: known for known, item in KINDS.items()}
        meant = short.get(kind) or nearest(kind, KINDS)
        hint = f"; did you mean {meant}/{name}?" if slash and meant else ""
        raise ManifestError(f"{options.object}: write KIND/NAME with one of {', '.join(sorted(KINDS))}{hint}")
    if options.workdir is not None:
        read, poll_seconds = _from_folder(options.workdir, kind, name), FOLDER_POLL_SECONDS
    else:
        read, poll_seconds = _from_cluster(options, kind, name), CLUSTER_POLL_SECONDS
    deadline = time.monotonic() + options.timeout
    shown = ""
    while True:
        line, ended = _state(options.object, read)
        if line != shown:
            shown = line
            print(line, flush=True)
        if ended is not None:
            return ended
        if time.monotonic() >= deadline:
            print(f"{options.object} is not Ready after {options.timeout:.0f} s", file=sys.stderr)
            return 2
        time.sleep(poll_seconds)


def _state(name: str, read: Read) -> tuple[str, int | None]:
    """A line that says how an object is, and the exit code once it is Ready or Stalled."""
    try:
        document = read() or {}
    except Unanswered as error:
        return str(error), None
    conditions = {item["type"]: item for item in document.get("status", {}).get("conditions", [])}
    ready = conditions.get("Ready")
    if ready is None:
        return f"{name} is not there yet", None
    line = f"{name} {ready['reason']}: {ready.get('message', '')}"
    if ready["status"] == "True":
        return line, 0
    return line, 1 if conditions.get("Stalled", {}).get("status") == "True" else None


def _from_folder(folder: Path, kind: str, name: str) -> Read:
    return lambda: stored_object(folder, kind, name)


def _from_cluster(options: argparse.Namespace, kind: str, name: str) -> Read:
    from psr_operator.cluster import CannotRead, NoAnswer, Reader  # the official client: psr[cluster]

    try:
        reader = Reader(kind, name, options.namespace, options.kubeconfig, options.context)
    except CannotRead as error:
        raise ManifestError(f"{kind}/{name}: {error}") from error

    def read() -> Mapping[str, Any] | None:
        try:
            return reader.read()
        except CannotRead as error:
            raise ManifestError(f"{kind}/{name}: {error}") from error
        except NoAnswer as error:
            raise Unanswered(f"{kind}/{name}: {error}; asking again") from error

    return read
