"""Operators one after the other, each forked from a process that has imported everything: a start costs no imports.

    with start_fork_server(arguments, folder) as operators:
        operators.start()
        operators.kill()
        assert operators.wait() == -signal.SIGKILL

Run as a program it is that process: it reads a line of JSON for each operator and says its pid, then its exit code.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
BIRTH_SECONDS = 60.0


class ForkServer:
    """Starts `psr operator` with the same arguments again and again, at most one at a time."""

    def __init__(self, process: subprocess.Popen[str], arguments: Sequence[str], log: Path) -> None:
        self.log = log
        self.pid = 0
        self.count = 0
        self._process = process
        self._arguments = list(arguments)
        self._born = threading.Event()
        self._codes: queue.Queue[int] = queue.Queue()

    def start(self) -> None:
        """Start the next one; the last one must have ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._born.clear()
        self.count += 1
        self._process.stdin.write(json.dumps({"arguments": self._arguments, "log": str(self.log)}) + "\n")
        self._process.stdin.flush()
        self.pid = int(self._process.stdout.readline())
        self._born.set()
        threading.Thread(target=self._await_end, daemon=True).start()

    def _await_end(self) -> None:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        self.pid = 0
        if line:
            self._codes.put(int(line))

    def kill(self, how: int = signal.SIGKILL) -> None:
        """Send a signal to the one that runs."""
        assert self._born.wait(BIRTH_SECONDS)
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, how)

    def wait(self, seconds: float = 60.0) -> int | None:
        """Its exit code (negative: that signal), None where it does not end in time."""
        try:
            return self._codes.get(timeout=seconds)
        except queue.Empty:
            return None

    def said(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""


@contextlib.contextmanager
def start_fork_server(arguments: Sequence[str], folder: Path) -> Iterator[ForkServer]:
    """Run it until the block ends; so does the operator that runs then.

    Args:
        arguments: of the command line, from `operator` on.
        folder: for the log of them all.
    """
    folder.mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.controller.fork_server"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
    )
    server = ForkServer(process, arguments, folder / "operators.log")
    try:
        yield server
    finally:
        if server.pid:
            server.kill()
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def serve() -> None:
    """The process that forks."""
    from psr_operator.cli import main
    from psr_operator.controller import process

    assert process
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _become(main, order["arguments"], order["log"])
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _become(main: object, arguments: list[str], log: str) -> None:
    """Be an operator."""
    assert callable(main)
    code = 1
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for old, new in ((nothing, 0), (output, 1), (output, 2)):
            os.dup2(old, new)
        code = main(arguments)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve()
