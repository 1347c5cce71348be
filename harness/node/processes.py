"""The processes of the test node: started with a log each, written down, told from others with their pid, ended."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

STATE = Path("/var/lib/psr-cluster")
"""All that the node keeps, logs included."""
START_SECONDS = 120.0


class NodeError(Exception):
    """The node cannot be started or stopped; the message says why and what to do."""


@dataclass(frozen=True)
class Process:
    """A process of the node. `started`, in clock ticks since boot, tells it from another one with its pid."""

    name: str
    pid: int
    started: int


def write(name: str, text: str) -> str:
    """Write a file below `STATE`; its path."""
    place = STATE / name
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text)
    return str(place)


def start(name: str, command: list[Any]) -> None:
    """Start a process that goes on when this one ends; its log is `STATE/<name>.log`."""
    with open(STATE / f"{name}.log", "wb") as log:
        process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=STATE,
        )
    record(name, process.pid)


def record(name: str, pid: int) -> None:
    """Write down that a process belongs to the node."""
    entries = [*processes(), Process(name, pid, start_time(pid) or 0)]
    (STATE / "processes.json").write_text(json.dumps([asdict(item) for item in entries], indent=1))


def processes() -> list[Process]:
    """Those that were written down."""
    try:
        return [Process(**item) for item in json.loads((STATE / "processes.json").read_text())]
    except FileNotFoundError:
        return []


def start_time(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None for one that has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return int(fields[19]) if fields[0] != "Z" else None


def runs(item: Process) -> bool:
    """Whether a process still runs."""
    return start_time(item.pid) == item.started


def end(item: Process) -> None:
    """End a process.

    Raises:
        NodeError: it does not end.
    """
    for number, seconds in ((signal.SIGTERM, 20.0), (signal.SIGKILL, 10.0)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(item.pid, number)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with contextlib.suppress(ChildProcessError, OSError):
                os.waitpid(item.pid, os.WNOHANG)
            if not runs(item):
                return
            time.sleep(0.05)
    raise NodeError(f"{item.name} (pid {item.pid}) does not end")


def until(done: Callable[[], bool], what: str, log: str, seconds: float = START_SECONDS) -> None:
    """Wait for a condition.

    Raises:
        NodeError: it does not come true; the message holds the end of a log.
    """
    deadline = time.monotonic() + seconds
    while not done():
        ended = [item.name for item in processes() if not runs(item)]
        if ended or time.monotonic() > deadline:
            place = STATE / f"{ended[0] if ended else log}.log"
            tail = place.read_text(errors="replace")[-3000:] if place.exists() else ""
            why = f"{ended[0]} ended" if ended else "it took too long"
            raise NodeError(f"waited for {what}: {why}\n{tail}")
        time.sleep(0.1)


def quiet(command: list[str]) -> bool:
    """Whether a command ends with 0; its output is dropped."""
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def answers(url: str) -> bool:
    """Whether an address answers 200."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=2) as answer:
            return int(answer.status) == 200
    except (urllib.error.URLError, OSError):
        return False
