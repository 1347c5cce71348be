"""How far a stage is: `/progress` and `/metrics` over HTTP, a bar on a terminal, plain lines in a pipe.

The HTTP port is `PSR_PROGRESS_PORT` (0: any free one; unset: none) and is written to `PSR_PROGRESS_PORT_FILE` when
that is set, so that whoever started the process finds it.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any

from psr_runtime.protocol import (
    PROGRESS_HOST_VARIABLE,
    PROGRESS_PATH,
    PROGRESS_PORT_FILE_VARIABLE,
    PROGRESS_PORT_VARIABLE,
)
from psr_runtime.protocol.addresses import http_server
from psr_runtime.protocol.errors import Interrupted

LINE_SECONDS = 5.0
"""A pipe gets a line at most this often."""


class Progress:
    """Counts of one stage. Thread-safe; use as a context manager.

    Args:
        stage: name of the stage.
    """

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self._lock = threading.Lock()
        self._done = 0
        self._total: int | None = None
        self._unit = ""
        self._started = time.monotonic()
        self._at_start = 0
        self._extra: dict[str, float] = {}
        self._last_line = 0.0
        self._server: ThreadingHTTPServer | None = None
        self._bar: Any = None
        self._task: Any = None

    def start(self, total: int, unit: str, done: int = 0) -> None:
        """Begin counting.

        Args:
            total: how much there is.
            unit: what is counted, in the plural (`problems`, `updates`).
            done: how much of it an earlier attempt has done.
        """
        with self._lock:
            self._total, self._unit, self._done, self._at_start = total, unit, done, done
            self._started = time.monotonic()
            if self._bar is not None:
                self._task = self._bar.add_task(f"{self.stage} ({unit})", total=total, completed=done)

    def advance(self, count: int = 1, **extra: float) -> None:
        """Count `count` more as done; `extra` are current values worth seeing (loss, accuracy)."""
        with self._lock:
            self._done += count
            self._extra.update(extra)
            if self._bar is not None and self._task is not None:
                self._bar.update(self._task, completed=self._done)
                return
            now = time.monotonic()
            if now - self._last_line >= LINE_SECONDS or self._done == self._total:
                self._last_line = now
                print(self._line(), file=sys.stderr, flush=True)

    def snapshot(self) -> dict[str, Any]:
        """`{"stage", "done", "total", "unit", "eta", …}`; `eta` in seconds, None while unknown."""
        with self._lock:
            return self._snapshot()

    def _snapshot(self) -> dict[str, Any]:
        return {
            "stage": self.stage,
            "done": self._done,
            "total": self._total,
            "unit": self._unit,
            "eta": self._eta(),
            **{key: round(value, 6) for key, value in self._extra.items()},
        }

    def _eta(self) -> float | None:
        worked = self._done - self._at_start
        if self._total is None or worked <= 0:
            return None
        return round((time.monotonic() - self._started) / worked * (self._total - self._done), 1)

    def _line(self) -> str:
        eta = self._eta()
        extra = "".join(f" {key}={value:.4g}" for key, value in self._extra.items())
        rest = f", {eta:.0f} s left" if eta else ""
        return f"{self.stage}: {self._done}/{self._total} {self._unit}{rest}{extra}"

    def _metrics(self) -> bytes:
        from prometheus_client import CollectorRegistry, Gauge, generate_latest

        registry = CollectorRegistry()
        values: Mapping[str, Any] = self.snapshot()
        for key in sorted(values):
            if isinstance(values[key], int | float):
                gauge = Gauge(f"psr_stage_{key}", f"{key} of the stage's work", ["stage"], registry=registry)
                gauge.labels(self.stage).set(values[key])
        data: bytes = generate_latest(registry)
        return data

    def __enter__(self) -> Progress:
        port = os.environ.get(PROGRESS_PORT_VARIABLE)
        if port is not None:
            self._serve(int(port))
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bars

            self._bar = Bars(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    def _serve(self, port: int) -> None:
        progress = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path == PROGRESS_PATH:
                    body, kind = json.dumps(progress.snapshot()).encode(), "application/json"
                elif self.path == "/metrics":
                    body, kind = progress._metrics(), "text/plain; version=0.0.4"
                else:
                    self.send_error(404)
                    return
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Requests are not logged: they come every few seconds."""

        host = os.environ.get(PROGRESS_HOST_VARIABLE, "127.0.0.1")
        try:
            self._server = http_server(host, port, Handler)
        except OSError as error:
            raise Interrupted(
                f"{PROGRESS_PORT_VARIABLE} {port} cannot be bound ({error.strerror}); another process has it"
            ) from error
        threading.Thread(target=self._server.serve_forever, daemon=True, name="progress").start()
        file = os.environ.get(PROGRESS_PORT_FILE_VARIABLE)
        if file:
            temporary = Path(file + ".new")
            temporary.write_text(str(self._server.server_address[1]))
            temporary.replace(file)
