"""`psr`: run manifests on this machine, wait for them, read their reports; write the CRDs for a cluster."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from psr_operator.api import KINDS, Resource, SelfRewardRun, crd
from psr_operator.api.explain import explain
from psr_operator.api.manifest import ManifestError, load_manifests, load_schema
from psr_operator.local.display import Display, models_table
from psr_operator.local.executor import Executor, WorkFolder
from psr_operator.local.node import Node
from psr_operator.local.rehearsal import Rehearsal
from psr_operator.local.store import stored_object
from psr_operator.planner.types import ExitClass
from psr_runtime.artefacts.manifest import digest_of_input, read_manifest
from psr_runtime.errors import StageError
from psr_runtime.storage import Storage, join, mounts_from

EXAMPLES = """examples:
  psr run -f examples/demo/run.yaml --mount /psr=out/demo/volume
  psr run -f run.yaml --dry-run                 what would be done, in order
  psr wait SelfRewardRun/demo --workdir out/demo/work
  psr wait SelfRewardRun/math --namespace team  of a cluster
  psr report file:///psr/runs/default/demo/report/m4 --mount /psr=out/demo/volume --to out/demo
  psr operator --runtime-image psr-runtime --inference-image psr-inference
  psr explain SelfRewardRun.spec.search         every field with type, default and source
  psr crds | kubectl apply --server-side -f -   teach a cluster the kinds

exit codes:
  0 every object is Ready · 64 manifest or configuration wrong · 65 data wrong · 66 input missing
  75 interrupted or temporary, run it again · 1 failed otherwise
"""

CODES = {
    ExitClass.CONFIGURATION.value: 64,
    ExitClass.DATA.value: 65,
    ExitClass.MISSING.value: 66,
    ExitClass.TEMPORARY.value: 75,
    "StorageInUse": 65,
    "NotSupported": 64,
}
"""Exit codes of `psr run` by the reason of a Stalled object."""


def main(arguments: list[str] | None = None) -> int:
    """The command line. Returns the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except ManifestError as error:
        print(error, file=sys.stderr)
        return 64
    except StageError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # whoever read our output has had enough (psr … | head)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


class _Parser(argparse.ArgumentParser):
    """Wrong arguments end with 64, as every other wrong configuration: 2 is what `psr wait` says when time is over."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(64, f"{self.prog}: {message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="psr",
        description="Self-rewarding language models: a model improves by its own judgement, as declared in a manifest.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = _command(
        commands,
        "run",
        _run,
        "carry out manifests on this machine",
        "Carry out every object of the manifests. Interrupt it and run it again: it goes on where the artefacts end.",
    )
    run.add_argument("-f", "--file", type=Path, action="append", required=True, metavar="FILE", help="manifest (YAML)")
    run.add_argument("--workdir", type=Path, metavar="DIR", help="logs and copies of objects (default: psr-work/NAME)")
    run.add_argument("--dry-run", action="store_true", help="print what would be done and do nothing")
    run.add_argument(
        "--watch", action="store_true", help="stay and apply changes of the manifests as they are saved, until Ctrl-C"
    )
    _mounts(run)

    wait = _command(
        commands,
        "wait",
        _wait,
        "wait for an object of a psr run or of a cluster",
        "Wait until an object is Ready (exit 0) or Stalled (exit 1); exit 2 when the time is over. With --workdir an "
        "object of a psr run, else one of the cluster of the kubeconfig.",
    )
    wait.add_argument("object", metavar="KIND/NAME", help="SelfRewardRun/demo, say")
    wait.add_argument("--workdir", type=Path, metavar="DIR", help="work folder of the psr run")
    wait.add_argument("-n", "--namespace", default="default", metavar="NAME", help="of the object (default: default)")
    wait.add_argument("--kubeconfig", metavar="FILE", help="default: $KUBECONFIG, ~/.kube/config or the pod's account")
    wait.add_argument("--timeout", type=float, default=3600.0, metavar="SECONDS", help="default: 3600")

    report = _command(
        commands,
        "report",
        _report,
        "fetch a run's report, with its controls",
        "Copy report.html and results.json of a report artefact into a folder, put the results of control runs "
        "beside them, and print the table.",
    )
    report.add_argument("uri", metavar="URI", help="report artefact of the run")
    report.add_argument("--to", type=Path, required=True, metavar="DIR", help="folder for report.html and results.json")
    report.add_argument(
        "--control", action="append", default=[], metavar="NAME=URI", help="report artefact of a control run"
    )
    _mounts(report)

    operate = _command(
        commands,
        "operator",
        _operate,
        "reconcile the objects of a cluster",
        "Run the operator: carry out every object of the cluster, or of some namespaces, until SIGTERM. Replicas share "
        "a Lease; one of them leads.",
    )
    operate.add_argument("--kubeconfig", metavar="FILE", help="default: the pod's service account, else $KUBECONFIG")
    operate.add_argument(
        "--watch-namespace",
        action="append",
        default=[],
        metavar="NAME",
        help="serve only this namespace; may be given again (default: the whole cluster)",
    )
    operate.add_argument("--runtime-image", required=True, metavar="IMAGE", help="image of the stages, best by digest")
    operate.add_argument("--inference-image", required=True, metavar="IMAGE", help="image of the servers")
    operate.add_argument(
        "--bring-runtime",
        action="store_true",
        help="the inference image holds only vLLM: servers take psr_runtime from the runtime image",
    )
    operate.add_argument(
        "--pod-defaults",
        type=Path,
        metavar="FILE",
        help="YAML with `gpu` and `cpu`: what pods with and without GPUs get where their manifest says nothing else; "
        "fields as in `psr explain StepDPOJob.spec.pod`",
    )
    operate.add_argument("--image-pull-policy", default="IfNotPresent", choices=["Always", "IfNotPresent", "Never"])
    operate.add_argument(
        "--allow-service-account",
        action="append",
        default=[],
        metavar="NAME",
        help="service account that manifests may name; may be given again",
    )
    operate.add_argument(
        "--namespace", default=os.environ.get("POD_NAMESPACE", "psr-system"), metavar="NAME", help="where the Lease is"
    )
    operate.add_argument("--lease", default="psr-operator", metavar="NAME", help="name of the Lease")
    operate.add_argument("--lease-seconds", type=float, default=30.0, metavar="S", help="default: 30")
    operate.add_argument(
        "--identity",
        default=os.environ.get("POD_NAME") or socket.gethostname(),
        metavar="NAME",
        help="name of this replica (default: $POD_NAME, else the host's)",
    )
    operate.add_argument("--port", type=int, default=8080, metavar="PORT", help="health and metrics (default: 8080)")
    operate.add_argument(
        "--poll-seconds", type=float, default=10.0, metavar="S", help="between two rounds of asking pods (default: 10)"
    )
    operate.add_argument(
        "--resync-seconds", type=float, default=600.0, metavar="S", help="between two full comparisons (default: 600)"
    )

    explained = _command(
        commands, "explain", _explain, "describe a kind's fields", "Print fields with type, default and description."
    )
    explained.add_argument("path", metavar="KIND[.FIELD…]", help=f"one of {', '.join(sorted(KINDS))}")

    crds = _command(
        commands,
        "crds",
        _crds,
        "print the CustomResourceDefinitions",
        "Print the CustomResourceDefinition of every kind as YAML, or write a file a kind.",
    )
    crds.add_argument("--to", type=Path, metavar="DIR", help="folder for one file a kind (default: print all)")
    return parser


def _command(
    commands: argparse._SubParsersAction[_Parser],
    name: str,
    function: Callable[[argparse.Namespace], int],
    summary: str,
    description: str,
) -> argparse.ArgumentParser:
    command = commands.add_parser(
        name,
        help=summary,
        description=description,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(command=function)
    return command


def _mounts(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--mount",
        action="append",
        default=[],
        metavar="/PATH=FOLDER",
        help="folder of this machine that stands for a volume's mountPath in file:// URIs",
    )


def _run(options: argparse.Namespace) -> int:
    objects = load_manifests(options.file)
    mounts = mounts_from(",".join(options.mount))
    if options.dry_run:
        return _rehearse(objects)
    folder: Path = options.workdir or Path("psr-work", objects[0].metadata.name)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with Display() as display:
        work = WorkFolder(folder, display.say, stop)
        node = Node(folder, mounts, (work.descriptor,))
        executor = Executor(folder, node, display.transition, stands=_artefact_is_there(objects, mounts))
        executor.apply(objects)
        saved = _saved(options.file)

        def tick() -> None:
            nonlocal saved
            display.progress(executor.store)
            if options.watch and _saved(options.file) != saved:
                saved = _saved(options.file)
                try:
                    executor.apply(load_manifests(options.file))
                except ManifestError as error:
                    display.say(str(error))

        executor.run(stop, tick, stay=options.watch)
        work.close()
    return _conclude(executor, mounts, interrupted=stop.is_set() and not executor.finished)


def _artefact_is_there(objects: Sequence[Resource], mounts: Mapping[str, Path]) -> Callable[[str, str], bool]:
    """Whether the artefact of a digest still stands at a URI, and its inputs are what it was made from."""
    access = next((item.spec.storage.access() for item in objects if getattr(item.spec, "storage", None)), None)
    storage = Storage(access, mounts)

    def stands(uri: str, digest: str) -> bool:
        try:
            manifest = read_manifest(storage, uri)
            if manifest is None or manifest.identity != digest:
                return False
            return all(digest_of_input(storage, item.uri) == item.digest for item in manifest.inputs.values())
        except StageError:
            return False  # the stage is asked, and says what is wrong

    return stands


def _rehearse(objects: list[Resource]) -> int:
    with tempfile.TemporaryDirectory(prefix="psr-") as folder:
        rehearsal = Rehearsal(print)
        executor = Executor(Path(folder), rehearsal, lambda _: None)
        executor.apply(objects)
        still, said = threading.Event(), -1

        def tick() -> None:
            nonlocal said
            if rehearsal.said == said:  # a server alone, say, never ends by itself
                still.set()
            said = rehearsal.said

        executor.run(still, tick)
        return _stalled(executor)


def _stalled(executor: Executor) -> int:
    """Say why objects are stalled; the exit code of the last one, 0 where none is."""
    code = 0
    for item in executor.roots:
        ready = item.status.condition("Ready")
        if item.status.holds("Stalled") and ready is not None:
            print(f"{item.ref} is stalled: {ready.reason}: {ready.message}", file=sys.stderr)
            code = CODES.get(ready.reason, 1)
    return code


def _conclude(executor: Executor, mounts: Mapping[str, Path], *, interrupted: bool) -> int:
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
    return _stalled(executor) or code


def _saved(files: list[Path]) -> list[float]:
    return [file.stat().st_mtime if file.exists() else 0.0 for file in files]


def _wait(options: argparse.Namespace) -> int:
    kind, slash, name = options.object.partition("/")
    if not slash or kind not in KINDS:
        raise ManifestError(f"{options.object}: write KIND/NAME with one of {', '.join(sorted(KINDS))}")
    read = _reader(options, kind, name)
    deadline = time.monotonic() + options.timeout
    shown = ""
    while True:
        found = read()
        conditions = {item["type"]: item for item in (found or {}).get("status", {}).get("conditions", [])}
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
        time.sleep(0.2 if options.workdir is not None else 1.0)


def _reader(options: argparse.Namespace, kind: str, name: str) -> Callable[[], Mapping[str, Any] | None]:
    """How the object of a `psr wait` is read."""
    folder: Path | None = options.workdir
    if folder is not None:
        return lambda: stored_object(folder, kind, name)
    try:
        from psr_operator.controller.wait import CannotRead, Reader
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


def _report(options: argparse.Namespace) -> int:
    from psr_runtime.report.save import save_report

    controls = {}
    for item in options.control:
        name, equals, uri = item.partition("=")
        if not equals:
            raise ManifestError(f"--control {item}: write NAME=URI")
        controls[name] = uri
    table = save_report(Storage(mounts=mounts_from(",".join(options.mount))), options.uri, options.to, controls)
    print(table)
    print(f"report: {options.to / 'report.html'}\nresults: {options.to / 'results.json'}")
    return 0


def _operate(options: argparse.Namespace) -> int:
    from psr_operator.controller.ask import Pace
    from psr_operator.controller.lease import Times
    from psr_operator.controller.process import Options, run
    from psr_operator.render import PodDefaults, Settings

    poll = options.poll_seconds
    return run(
        Options(
            settings=Settings(
                runtime_image=options.runtime_image,
                inference_image=options.inference_image,
                image_pull_policy=options.image_pull_policy,
                service_accounts=frozenset(options.allow_service_account),
                bring_runtime=options.bring_runtime,
                pod_defaults=load_schema(options.pod_defaults, PodDefaults) if options.pod_defaults else PodDefaults(),
            ),
            kubeconfig=options.kubeconfig,
            namespaces=options.watch_namespace,
            namespace=options.namespace,
            lease=options.lease,
            identity=options.identity,
            times=Times.of(options.lease_seconds),
            pace=Pace(round=poll, commit=3 * poll, server=poll / 5, ready=1.5 * poll),
            resync_seconds=options.resync_seconds,
            port=options.port,
        )
    )


def _explain(options: argparse.Namespace) -> int:
    print(explain(options.path))
    return 0


def _crds(options: argparse.Namespace) -> int:
    if options.to is None:
        print("---\n".join(crd.rendered().values()), end="")
    else:
        for path in crd.write(options.to):
            print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
