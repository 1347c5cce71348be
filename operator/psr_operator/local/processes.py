"""Child processes that never outlive `psr run`: started, watched, stopped, each with a log of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from psr_runtime.protocol.logs import failure_words

GRACE_SECONDS = 30.0
"""Between SIGTERM and SIGKILL."""


@dataclass
class Child:
    """One process.

    Attributes:
        log: file of its stdout and stderr.
    """

    process: subprocess.Popen[bytes]
    log: Path
    _kill_at: float | None = None

    @property
    def code(self) -> int | None:
        """Exit code, negative for a signal; None while it runs."""
        return self.process.poll()

    def stop(self) -> None:
        """Ask it to end; the first call sends SIGTERM, one after the grace time SIGKILL. Does not wait."""
        if self.code is not None:
            return
        if self._kill_at is None:
            self._kill_at = time.monotonic() + GRACE_SECONDS
            self.process.send_signal(signal.SIGTERM)
        elif time.monotonic() >= self._kill_at:
            self.process.kill()

    def failure_words(self) -> str:
        """Why it ended, by its log: the error that began it, or the last lines; and where the log is."""
        words = ""
        with contextlib.suppress(OSError):
            words = failure_words(self.log.read_text(errors="replace").splitlines())
        return f"{words}; see {self.log}" if words else f"see {self.log}"


def start(command: Sequence[str], environment: Mapping[str, str], log: Path, keep_open: Sequence[int]) -> Child:
    """Start a process in a session of its own, so that Ctrl-C reaches `psr run` alone.

    Args:
        command: program and arguments.
        environment: added to this process's.
        log: appended to.
        keep_open: file descriptors it inherits: the lock of the work folder lives as long as any writer.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as output:
        process = subprocess.Popen(
            list(command),
            env={**os.environ, **environment, "PSR_PARENT": str(os.getpid())},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=tuple(keep_open),
        )
    return Child(process, log)
