"""Runs the steps of `make test` and `.ci/run`: those that wait beside those that compute, each with its own log.

    python3 harness/steps.py test
    python3 harness/steps.py ci

It needs no environment, as making one is a step. A step begins when those that it comes after have ended. The first
one that fails ends the others and its log is shown; logs lie in out/steps, the seconds of each step in out/times.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
END_SECONDS = 90.0
"""What a step may take to end that is asked to."""
MAKE = ("make", "--no-print-directory")


@dataclass(frozen=True)
class Step:
    """A command and when it runs.

    Attributes:
        after: names of the steps that must have ended well before.
        live: whether its output is shown as it comes; else it goes to a log.
        shown: whether its log is shown when it has ended well, too.
        nice: how far it stands back where processors are wanted by others.
    """

    name: str
    command: tuple[str, ...]
    after: tuple[str, ...] = ()
    live: bool = False
    shown: bool = False
    nice: int = 0


PLANS = {
    "test": (
        Step("environment", (*MAKE, ".venv/dev/ready")),
        Step("Go and etcd", (*MAKE, ".venv/control-plane/ready")),
        Step("programs", (*MAKE, "control-plane"), after=("Go and etcd",), nice=5),
        Step("lint", (*MAKE, "lint"), after=("environment",), nice=5),
        Step("tests", (*MAKE, "pytest"), after=("environment", "Go and etcd"), live=True),
    ),
    "ci": (
        Step("make test", (*MAKE, "test"), live=True),
        Step("make cluster-prepare", (*MAKE, "cluster-prepare"), nice=10),
        Step("make test-cluster", (*MAKE, "test-cluster"), after=("make test", "make cluster-prepare"), live=True),
        Step("make demo", (*MAKE, "demo"), after=("make test",), shown=True, nice=10),
    ),
}


INNER = {
    "make test": ("test.json", "tests.json"),
    "make test-cluster": ("test-cluster.json", "cluster-tests.json"),
}
"""Files in out/times that the steps of `.ci/run` leave."""
SLOWEST = 15
"""Test files in the table."""


class Runner:
    """Runs the steps of a plan, as many at a time as may run."""

    def __init__(self, plan: str) -> None:
        self._plan = plan
        self._steps = PLANS[plan]
        self._logs = ROOT / "out" / "steps"
        self._running: dict[str, tuple[Step, subprocess.Popen[bytes], float]] = {}
        self._seconds: dict[str, float] = {}

    def run(self) -> int:
        """Run them all; the exit code of the first one that failed, else 0."""
        begun = time.monotonic()
        self._logs.mkdir(parents=True, exist_ok=True)
        code = 0
        try:
            while code == 0 and len(self._seconds) < len(self._steps):
                for step in self._steps:
                    new = step.name not in self._running and step.name not in self._seconds
                    if new and all(name in self._seconds for name in step.after):
                        self._start(step)
                code = self._wait()
        finally:
            self._end_all()
            self._tell_times(time.monotonic() - begun)
        return code

    def _start(self, step: Step) -> None:
        command = ("nice", "-n", str(step.nice), *step.command) if step.nice else step.command
        output: Any = None
        if not step.live:
            output = open(self._log(step), "wb")  # noqa: SIM115 the process goes on with it
        process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
        if output is not None:
            output.close()
        self._running[step.name] = (step, process, time.monotonic())

    def _wait(self) -> int:
        """Wait until a step has ended; its exit code."""
        while True:
            for name, (step, process, begun) in self._running.items():
                code = process.poll()
                if code is None:
                    continue
                del self._running[name]
                self._seconds[name] = time.monotonic() - begun
                if not step.live and (code or step.shown):
                    print(f"=== {name}\n{self._log(step).read_text(errors='replace')}", flush=True)
                if code:
                    print(f"=== {name} ended with {code}", flush=True)
                return code
            time.sleep(0.1)

    def _end_all(self) -> None:
        """Ask what still runs to end (as Ctrl-C does), and see to it."""
        for _, process, _ in self._running.values():
            _signal(process, signal.SIGINT)
        deadline = time.monotonic() + END_SECONDS
        for name, (_, process, begun) in self._running.items():
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                _signal(process, signal.SIGKILL)
                process.wait()
            self._seconds[f"{name} (ended early)"] = time.monotonic() - begun

    def _tell_times(self, whole: float) -> None:
        rows = {**self._seconds, "all": whole}
        place = ROOT / "out" / "times" / f"{self._plan}.json"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(json.dumps({name: round(seconds, 1) for name, seconds in rows.items()}, indent=1) + "\n")
        print("=== seconds", flush=True)
        for name, seconds in rows.items():
            print(f"{seconds:7.0f}  {name}", flush=True)
            for line in _inner_times(name):
                print(f"{'':9}{line}", flush=True)

    def _log(self, step: Step) -> Path:
        return self._logs / f"{self._plan}-{step.name.replace(' ', '-')}.log"


def _inner_times(name: str) -> list[str]:
    """What the targets that `.ci/run` makes have told of their own times: their steps, and their slowest test files."""
    lines: list[str] = []
    for file in INNER.get(name, ()):
        try:
            times = json.loads((ROOT / "out" / "times" / file).read_text())
        except FileNotFoundError:
            continue
        if isinstance(times, dict):
            lines += [f"{seconds:7.0f}  {step}" for step, seconds in times.items() if step != "all"]
        else:
            lines += [f"{row['wall']:7.0f}  {row['file']}" for row in times[:SLOWEST]]
    return lines


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Send a signal to a step and all that it has started."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return


def main(arguments: list[str]) -> int:
    """Run the plan that is named."""
    if len(arguments) != 1 or arguments[0] not in PLANS:
        print(f"usage: python3 harness/steps.py {{{','.join(PLANS)}}}", file=sys.stderr)
        return 64
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the steps are ended, too
    return Runner(arguments[0]).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
