"""Our operator against a plain kopf one, and against itself with more objects: time, writes, memory, delays.

    make bench-operator                      both, the growth, out/bench/operator.json
    python -m benchmarks.operator --quick    small numbers, to see that it works

A real apiserver; Jobs and pods are played at once by a process of their own, so that what is measured is the operator.
Every measurement has a control plane of its own. Time runs from the operator's first healthy answer to the last
iteration that is Ready; all iterations exist before it starts. Run it on a machine with nothing else to do.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import os
import platform
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from benchmarks.cluster import (
    ITERATIONS,
    OPENER,
    ROOT,
    SERVERS,
    TooSlow,
    cluster,
    identity,
    make_iterations,
    make_server,
    player,
    until_answers,
    until_ready,
)
from harness.measuring import CHILD, RECONCILE, memory_after_import_mb, memory_mb, quantile, requests_of
from harness.ports import free_ports

PLAIN = "-m benchmarks.plain_operator --port {port}"
OURS = (
    "-m psr_operator.cli operator --kubeconfig {kubeconfig} --port {port} "
    "--runtime-image psr-runtime --inference-image psr-inference"
)
IMPORTS = {
    "plain": "kopf, kubernetes, benchmarks.plain_operator",
    "ours": "psr_operator.cli, psr_operator.controller.process",
}


@dataclass(frozen=True)
class Figures:
    """One measurement.

    Attributes:
        ready: iterations that became Ready; fewer than `count` where the limit came first.
        seconds: from the first healthy answer to the last iteration that is Ready, or to the limit.
        start_seconds: from the start of the process to its first healthy answer.
        writes, reads: requests by the operator's user, Leases left out.
        rss_mb, import_mb: resident memory at the end, and of a process that only imports the same modules.
        delays: p50 and p99 in seconds of the histograms that the operator offers.
        played: what the player counted.
    """

    operator: str
    count: int
    ready: int
    seconds: float
    start_seconds: float
    writes: int
    reads: int
    writes_by_kind: dict[str, int]
    rss_mb: float
    import_mb: float
    delays: dict[str, dict[str, float]]
    played: dict[str, Any]


def measure(name: str, command: str, count: int, limit: float) -> Figures:
    """Run an operator on so many iterations.

    Args:
        name: `ours` or `plain`; also of its account.
        command: after the interpreter; `{kubeconfig}` and `{port}` are put in.
        limit: seconds that it may take.

    Raises:
        RuntimeError: it does not come to an end; the message holds the end of its log.
    """
    with tempfile.TemporaryDirectory(prefix="psr-bench-") as place:
        folder = Path(place)
        played: dict[str, Any] = {}
        with cluster(folder / "plane") as plane:
            user, kubeconfig = identity(plane, name, folder / "kubeconfig")
            port = free_ports(1)[0]
            try:
                with player(plane, played), open(folder / "log", "wb") as log:
                    make_server(plane, said_ready=name == "plain")
                    if name == "ours":  # it makes servers as well; that is over before the time runs
                        _, other = identity(plane, "before", folder / "before.kubeconfig")
                        with _running(command.format(kubeconfig=other, port=port), other, log) as process:
                            asyncio.run(until_ready(plane, SERVERS, 1, process, limit))
                    make_iterations(plane, count)
                    begun = time.monotonic()
                    with _running(command.format(kubeconfig=kubeconfig, port=port), kubeconfig, log) as process:
                        healthy = until_answers(f"http://127.0.0.1:{port}/healthz", process)
                        try:
                            ready, ended = count, asyncio.run(until_ready(plane, ITERATIONS, count, process, limit))
                        except TooSlow as slow:  # the plain operator at a large count: a bound is a figure too
                            if name == "ours":
                                raise
                            ready, ended = slow.ready, time.monotonic()
                        memory = memory_mb(process.pid)
                        delays = _delays(port) if name == "ours" else {}
            except RuntimeError as error:
                tail = (folder / "log").read_text(errors="replace")[-3000:]
                raise RuntimeError(f"{name}, {count}: {error}\n{tail}") from None
            asked = requests_of(plane, user)
    return Figures(
        operator=name,
        count=count,
        ready=ready,
        seconds=round(ended - healthy, 3),
        start_seconds=round(healthy - begun, 3),
        writes=asked.writes,
        reads=asked.reads,
        writes_by_kind=asked.by_kind,
        rss_mb=round(memory, 1),
        import_mb=round(memory_after_import_mb(IMPORTS[name]), 1),
        delays=delays,
        played=played,
    )


@contextlib.contextmanager
def _running(command: str, kubeconfig: Path, log: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """An operator, until the block ends."""
    process = subprocess.Popen(
        [sys.executable, *shlex.split(command)],
        cwd=ROOT,
        env={**os.environ, "KUBECONFIG": str(kubeconfig), "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    try:
        yield process
    finally:
        _end(process)


def summary(figures: Sequence[Figures]) -> dict[str, Any]:
    """The figures that are compared with goals, and all that was measured.

    `speedup` is plain/ours in seconds and `write_ratio` ours/plain in writes, at the largest count that both have;
    memory and delays (seconds) are ours there; `growth` is the exponent of ours over all counts, 1 for linear. Where
    the plain operator was not done at the limit, `plain_ready` is below `compared_at` and both ratios are bounds: it
    would have taken longer and written more.
    """
    ours = {item.count: item for item in figures if item.operator == "ours"}
    plain = {item.count: item for item in figures if item.operator == "plain"}
    result: dict[str, Any] = {}
    both = sorted(set(ours) & set(plain))
    if both:
        mine, other = ours[both[-1]], plain[both[-1]]
        result |= {
            "compared_at": both[-1],
            "plain_ready": other.ready,
            "speedup": round(other.seconds / mine.seconds, 2),
            "write_ratio": round(mine.writes / other.writes, 3),
        }
    if ours:
        shown = ours[both[-1] if both else max(ours)]
        result |= {
            "rss_over_import_mb": round(shown.rss_mb - shown.import_mb, 1),
            "p50": shown.delays.get(RECONCILE, {}).get("p50"),
            "p99": shown.delays.get(RECONCILE, {}).get("p99"),
            "child_p50": shown.delays.get(CHILD, {}).get("p50"),
            "child_p99": shown.delays.get(CHILD, {}).get("p99"),
            "growth": slope({count: item.seconds for count, item in ours.items()}),
            "seconds": {str(count): ours[count].seconds for count in sorted(ours)},
        }
    about = {"cores": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}
    return {**result, "about": about, "measurements": [asdict(item) for item in figures]}


def slope(seconds: dict[int, float]) -> float | None:
    """Least-squares slope of log time over log count: 1 is linear. None for fewer than two counts."""
    if len(seconds) < 2:
        return None
    points = [(math.log(count), math.log(value)) for count, value in seconds.items()]
    x, y = (sum(values) / len(points) for values in zip(*points, strict=True))
    return round(sum((a - x) * (b - y) for a, b in points) / sum((a - x) ** 2 for a, _ in points), 3)


def _delays(port: int) -> dict[str, dict[str, float]]:
    with OPENER.open(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    delays = {}
    for name in (RECONCILE, CHILD):
        lines = re.findall(rf'(?m)^{name}_bucket\{{(?:.*,)?le="([^"]+)"\}} (\S+)$', text)
        buckets = sorted((float(bound), float(count)) for bound, count in lines)
        if buckets and buckets[-1][1]:
            delays[name] = {
                "p50": round(quantile(buckets, 0.5), 5),
                "p99": round(quantile(buckets, 0.99), 5),
                "count": buckets[-1][1],
            }
    return delays


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.operator", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="compare at 50, grow over 25, 50, 100")
    parser.add_argument("--compare", type=int, metavar="N", help="iterations for both operators (default: 2000)")
    parser.add_argument("--sizes", type=int, nargs="*", metavar="N", help="for ours (default: 500 1000 2000 4000)")
    parser.add_argument("--only", choices=["ours", "plain"], help="measure only one")
    parser.add_argument("--ours", default=OURS, metavar="COMMAND", help=f"default: {OURS}")
    parser.add_argument("--limit", type=float, default=1800.0, metavar="S", help="for each measurement (default: 1800)")
    parser.add_argument("--out", type=Path, default=ROOT / "out/bench/operator.json", metavar="FILE")
    arguments = parser.parse_args()
    compare = arguments.compare or (50 if arguments.quick else 2000)
    sizes = arguments.sizes if arguments.sizes is not None else [25, 50, 100] if arguments.quick else None
    sizes = [500, 1000, 2000, 4000] if sizes is None else sizes
    wanted = [("plain", PLAIN, compare)] if arguments.only != "ours" else []
    if arguments.only != "plain":
        wanted += [("ours", arguments.ours, count) for count in sorted({*sizes, compare})]
    figures = []
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    for name, command, count in wanted:
        figures.append(measure(name, command, count, arguments.limit))
        last = figures[-1]
        print(
            f"{name:<6} {count:>5} iterations ({last.ready} ready): {last.seconds:8.1f} s, {last.writes:>6} writes "
            f"({last.writes / count:.1f} each), {last.rss_mb:.0f} MB ({last.import_mb:.0f} MB after import)",
            flush=True,
        )
        arguments.out.write_text(json.dumps(summary(figures), indent=1) + "\n")
    print(f"written: {arguments.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
