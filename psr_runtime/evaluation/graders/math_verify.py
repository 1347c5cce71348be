"""`evaluation.grader` MathVerify: the library of that name, behind a process that may die.

One worker process grades answer after answer; an answer that costs it its limits is wrong, and the next answer gets
a new worker. The limit is processor time, so that a busy machine does not change what is right. Equality of plain
integers is decided here, exactly and without a worker.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from types import TracebackType
from typing import IO, Any, Literal

from psr_runtime.evaluation.graders import Grade
from psr_runtime.prompts.grammar import boxed

TAIL_CHARACTERS = 16_384
"""Only the end of a response is read: the answer stands there, and 2,048 tokens have about half as many characters."""

START_SECONDS = 300.0
"""A worker that is not ready by then is given up; it takes about two seconds on an idle machine."""

INTEGER = re.compile(r"[+-]?\d{1,15}")


class MathVerify:
    """Grades answers with one worker process, which is started when first needed and replaced when it dies.

    Args:
        seconds: processor time for one answer.
        wall_seconds: when a worker that says nothing is killed, busy or not. Unset: ten times the limit and 30 s.
    """

    def __init__(self, seconds: float, wall_seconds: float | None = None) -> None:
        self._seconds = seconds
        self._wall_seconds = wall_seconds if wall_seconds is not None else 10 * seconds + 30
        self._worker: _Worker | None = None

    def grade(self, gold: str, response: str) -> Grade:
        """Grade one response.

        The answer is the last `\\boxed{…}` that states one in the last 16,384 characters (`prompts/grammar.py`, as for
        the search); without one, what math-verify finds in the sentence `the answer is …`, else in the text without
        step headers. An empty gold answer is never met.

        Raises:
            RuntimeError: no worker can be started (math-verify is not installed).
        """
        text = response[-TAIL_CHARACTERS:]
        if not gold.strip():
            return Grade(None, False, "EmptyGold")
        quick = _integers(gold, text)
        if quick is not None:
            return quick
        if self._worker is None:
            self._worker = _Worker(self._seconds)
        reply = self._worker.ask({"gold": gold, "text": text}, self._wall_seconds)
        if isinstance(reply, dict):
            return Grade(reply["answer"], reply["correct"], "Crash" if "error" in reply else None)
        self.close()
        return Grade(None, False, reply)

    @property
    def worker_pid(self) -> int | None:
        """Process id of the worker that is alive, None when none is."""
        return self._worker.process.pid if self._worker is not None else None

    def close(self) -> None:
        """End the worker."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    def __enter__(self) -> MathVerify:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _integers(gold: str, text: str) -> Grade | None:
    """The grade where both answers are plain integers, else None."""
    if not INTEGER.fullmatch(gold.strip()):
        return None
    answer = (boxed(text) or "").strip()
    return Grade(answer, int(answer) == int(gold)) if INTEGER.fullmatch(answer) else None


class _Worker:
    """One worker process and its pipes. In a session of its own, so that Ctrl-C reaches only the stage."""

    def __init__(self, seconds: float) -> None:
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the worker
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "psr_runtime.evaluation.graders.math_verify_worker", str(seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            start_new_session=True,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._to, self._from = self.process.stdin, self.process.stdout
        if not isinstance(self._read(START_SECONDS), dict):
            self._log.seek(0)
            said = self._log.read().decode(errors="replace").strip()[-500:]
            self.close()
            raise RuntimeError(f"the grading process does not start: {said or 'it says nothing'}")

    def ask(self, request: dict[str, str], wall_seconds: float) -> dict[str, Any] | Literal["Timeout", "Crash"]:
        """The worker's reply, or how it died."""
        try:
            self._to.write(json.dumps(request).encode() + b"\n")
            self._to.flush()
        except BrokenPipeError:
            return "Crash"
        return self._read(wall_seconds)

    def _read(self, wall_seconds: float) -> dict[str, Any] | Literal["Timeout", "Crash"]:
        line = b""
        deadline = time.monotonic() + wall_seconds
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([self._from], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                return "Timeout"
            piece = os.read(self._from.fileno(), 65_536)
            if not piece:
                return "Timeout" if self.process.wait() == -signal.SIGPROF else "Crash"
            line += piece
        reply: dict[str, Any] = json.loads(line)
        return reply

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        with contextlib.suppress(BrokenPipeError):
            self._to.close()
        self._from.close()
        self._log.close()
