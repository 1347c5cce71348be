"""Record what this version does, so that later versions can be held to it.

    python -m tests.before.record digests run objects

Each name writes one file beside this one anew. What was recorded once is not recorded again: a later version must
agree with what an earlier one did, and its own record would agree with anything.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import io
import json
import signal
import sys
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from harness.control_plane.plane import ControlPlane, start_control_plane
from harness.operator_process import grant, start_operator
from tests.before import half_done
from tests.before.cluster import HELD, RUN, namespace_of, scene
from tests.before.objects import take
from tests.before.planned import plan_manifest, schema_version
from tests.local.command import start_psr, until, write

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def record_digests(place: Path) -> None:
    """Write every manifest of `examples/`, and one of our own with what they do not ask for; and what was planned."""
    examples = (path for path in (ROOT / "examples").rglob("*.yaml") if "\napiVersion: psr.dev/" in path.read_text())
    manifests = {str(path.relative_to(ROOT)): path.read_text() for path in (*examples, HERE / "everything.yaml")}
    plans = {name: plan_manifest(text) for name, text in manifests.items()}
    stages = sorted({item.stage for plan in plans.values() for item in plan})
    document = {
        "schemaVersions": {stage: schema_version(stage) for stage in stages},
        "manifests": manifests,
        "plans": {
            name: [
                {
                    "workload": item.workload,
                    "stage": item.stage,
                    "shard": item.shard,
                    "digest": item.digest,
                    "configuration": item.configuration,
                }
                for item in plan
            ]
            for name, plan in plans.items()
        },
    }
    place.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")


def record_run(place: Path) -> None:
    """Begin a run with `psr run`, interrupt it in the middle of the first step-DPO, and pack what a user then has.

    Manifest, volume and the work folder's objects are packed; logs, and what processes were told, are not.
    """
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):  # no path of this machine is written down
        half_done.write_inputs(Path("volume", "input"))
        write(Path("run.yaml"), half_done.RUN)
        resume = Path("volume", "runs", "default", half_done.NAME, "m2", "resume")
        process = start_psr(*half_done.arguments("."), log=Path("log"), environment=half_done.environment())
        try:
            until(
                lambda: [path for path in resume.glob("*/complete.json") if int(path.parent.name) >= 20], "20 updates"
            )
        finally:
            process.send_signal(signal.SIGINT)
            process.wait()
        print(Path("log").read_text())
        assert process.returncode == 75, process.returncode
        packed = [Path("run.yaml"), *Path("volume").rglob("*"), *Path("work", "objects").iterdir()]
        place.write_bytes(_packed(sorted(path for path in packed if path.is_file())))


def _packed(paths: Sequence[Path]) -> bytes:
    """A gzipped tar of files, without owners and times."""
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0) as file, tarfile.open(fileobj=file, mode="w") as archive:
        for path in paths:
            info = tarfile.TarInfo(path.as_posix())
            info.size = path.stat().st_size
            archive.addfile(info, io.BytesIO(path.read_bytes()))
    return buffer.getvalue()


def record_objects(place: Path) -> None:
    """Run an operator on a control plane until one stage is at work, and write down every object of the run."""
    with tempfile.TemporaryDirectory() as name, start_control_plane(Path(name, "plane")) as plane:
        plane.ctl("apply", "--server-side", "-f", str(ROOT / "crds"))
        plane.ctl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
        states = {state: _objects_of(plane, state, Path(name)) for state in HELD}
    place.write_text(json.dumps(states, indent=1, sort_keys=True) + "\n")


def _objects_of(plane: ControlPlane, state: str, folder: Path) -> list[dict[str, Any]]:
    """The objects of a run whose stage of this state is at work. The run is then seen to its end."""
    held, namespace = HELD[state], namespace_of(state)
    account = grant(plane, [])
    with scene(plane, state) as place, start_operator(account, folder, namespaces=[namespace]):
        place.make(RUN)
        place.until(lambda: held.stands(place), f"{held.job} at work")
        objects = take(plane, namespace)
        place.player.release(held.job)
        place.until_done()
        place.judge()
    return objects


RECORDERS: dict[str, tuple[Callable[[Path], None], Path]] = {
    "digests": (record_digests, HERE / "digests.json"),
    "run": (record_run, HERE / "run.tar.gz"),
    "objects": (record_objects, HERE / "objects.json"),
}


def main(arguments: Sequence[str]) -> int:
    """Record what the command line names."""
    parser = argparse.ArgumentParser(prog="python -m tests.before.record", description=__doc__)
    parser.add_argument("names", nargs="+", choices=RECORDERS, metavar="NAME", help=", ".join(RECORDERS))
    for name in parser.parse_args(arguments).names:
        record, place = RECORDERS[name]
        record(place)
        print(f"{place.relative_to(ROOT)}: {place.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
