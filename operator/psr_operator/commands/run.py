"""`psr run`: carry out manifests on this machine, or say what would be done."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from psr_operator.api import Resource, SelfRewardRun
from psr_operator.api.manifest import ManifestError, load_manifests
from psr_operator.commands.check import before_run
from psr_operator.commands.mounts import add_mounts, mounts_of
from psr_operator.conditions import Transition
from psr_operator.local.executor import Executor, WorkFolder, rehearse
from psr_operator.local.machine import check_gpus, check_volumes, packages_of
from psr_operator.local.node import Node
from psr_operator.local.packages import require
from psr_operator.local.preflight import check_objects, not_begun
from psr_operator.local.rehearsal import Rehearsal
from psr_operator.reasons import exit_code
from psr_runtime.artefacts.manifest import digest_of_input, read_manifest
from psr_runtime.protocol.errors import StageError
from psr_runtime.storage import Storage, join

NAME = "run"
SUMMARY = "carry out manifests on this machine"
DESCRIPTION = (
    "Carry out every object of the manifests. Interrupt it and run it again: it goes on where the artefacts end."
)
EXAMPLES = """\
  psr run -f examples/demo/run.yaml --mount /psr=out/demo/volume
  psr run -f run.yaml --dry-run                 what would be done, in order
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The manifests, and where the work is done."""
    parser.add_argument(
        "-f", "--file", type=Path, action="append", required=True, metavar="FILE", help="manifest (YAML)"
    )
    parser.add_argument(
        "--workdir", type=Path, metavar="DIR", help="logs and copies of objects (default: psr-work/NAME)"
    )
    parser.add_argument("--dry-run", action="store_true", help="print what would be done and do nothing")
    parser.add_argument(
        "--watch", action="store_true", help="stay and apply changes of the manifests as they are saved, until Ctrl-C"
    )
    parser.add_argument("--no-check", action="store_true", help="start without looking for faults first (psr check)")
    add_mounts(parser)


def execute(options: argparse.Namespace) -> int:
    """Carry out the manifests, or rehearse them. Returns the exit code that the epilog of the help lists."""
    objects = load_manifests(options.file)
    mounts = mounts_of(options)
    if options.dry_run:
        return _rehearse(objects)
    _check(objects, mounts)
    from psr_operator.local.display import Display  # rich: a rehearsal needs no package but ours

    folder: Path = options.workdir or Path("psr-work", objects[0].metadata.name)
    if not options.no_check:
        code = before_run(check_objects(not_begun(objects, folder), mounts, here=True))
        if code:
            return code
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with Display() as display:
        work = WorkFolder(folder, display.say, stop)
        node = Node(folder, mounts, (work.descriptor,))
        stalls: list[Transition] = []

        def report(item: Transition) -> None:
            stored = executor.store.get(item.kind, item.name)
            stalled = stored is not None and stored.status.holds("Stalled")
            (stalls.append if stalled else display.transition)(item)

        executor = Executor(folder, node, report, artefact_exists=_artefact_check(objects, mounts))
        executor.apply(objects)
        saved = _saved(options.file)

        def tick() -> None:
            nonlocal saved
            _say_stalls(stalls, {item.ref for item in executor.roots}, display.transition)
            display.progress(executor.store)
            if options.watch and _saved(options.file) != saved:
                saved = _saved(options.file)
                try:
                    changed = load_manifests(options.file)
                    _check(changed, mounts)
                    executor.apply(changed)
                except ManifestError as error:
                    display.say(str(error))

        executor.run(stop, tick, stay=options.watch)
        work.close()
    return _conclude(executor, mounts, interrupted=stop.is_set() and not executor.finished)


def _artefact_check(objects: Sequence[Resource], mounts: Mapping[str, Path]) -> Callable[[str, str], bool]:
    """Whether the artefact of a digest is still at a URI, and its inputs are what it was computed from."""
    access = next((item.spec.storage.access() for item in objects if getattr(item.spec, "storage", None)), None)
    storage = Storage(access, mounts)

    def exists(uri: str, digest: str) -> bool:
        try:
            manifest = read_manifest(storage, uri)
            if manifest is None or manifest.identity != digest:
                return False
            return all(digest_of_input(storage, item.uri) == item.digest for item in manifest.inputs.values())
        except StageError:
            return False  # the stage is asked, and says what is wrong

    return exists


def _check(objects: Sequence[Resource], mounts: Mapping[str, Path]) -> None:
    """Whether this machine has what the manifests ask for: nothing is made or started before that is known."""
    check_volumes(objects, mounts)
    require("psr run", packages_of(objects))
    check_gpus(objects)


def _rehearse(objects: list[Resource]) -> int:
    rehearsal = Rehearsal(print)
    executor = Executor(None, rehearsal, lambda _: None)
    rehearse(executor, objects, rehearsal)
    for item in executor.roots:
        ready = item.status.condition("Ready")
        if item.status.holds("Stalled") and ready is not None:
            _say_stalled(item.ref, ready.reason, ready.message)
    return _code_of_stalled(executor)


def _say_stalls(stalls: list[Transition], roots: Collection[str], say: Callable[[Transition], None]) -> None:
    """Say once why objects turned Stalled together, and forget it: parents repeat what a child of theirs says."""
    for item in stalls:
        ref = f"{item.kind}/{item.name}"
        if ref in roots:
            _say_stalled(ref, item.reason, item.message)
        elif not any(other is not item and item.message in other.message for other in stalls):
            say(item)
    stalls.clear()


def _say_stalled(ref: str, reason: str, message: str) -> None:
    """On stderr, as it decides the exit code."""
    print(f"{ref} is stalled: {reason}: {message}", file=sys.stderr, flush=True)


def _conclude(executor: Executor, mounts: Mapping[str, Path], *, interrupted: bool) -> int:
    """Print each run's table and where its report is; say what is not finished. Returns the exit code."""
    from psr_operator.local.display import models_table

    code = 75 if interrupted else 0
    for item in executor.roots:
        if isinstance(item, SelfRewardRun):
            print(models_table(item))
            reports = [value["output"] for key, value in item.status.done.items() if key.startswith("report")]
            if reports:
                page = join(reports[-1], "report.html")
                print(f"report: {Storage(mounts=mounts).local_path(page) or page}")
        if not item.status.holds("Ready") and not item.status.holds("Stalled"):
            suspended = "is suspended; set suspend: false" if item.status.holds("Suspended") else "is not finished"
            print(f"{item.ref} {suspended}; run it again and it goes on from here", file=sys.stderr)
            code = code or 75
    return _code_of_stalled(executor) or code


def _code_of_stalled(executor: Executor) -> int:
    """The exit code of the last object that is stalled, 0 where none is."""
    code = 0
    for item in executor.roots:
        ready = item.status.condition("Ready")
        if item.status.holds("Stalled") and ready is not None:
            code = exit_code(ready.reason)
    return code


def _saved(files: list[Path]) -> list[float]:
    """When each file was last saved; 0 for one that is not there."""
    return [file.stat().st_mtime if file.exists() else 0.0 for file in files]
