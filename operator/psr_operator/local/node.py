"""What a node is to a cluster, on one machine: Workloads and Servers as processes, observed as states."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import sys
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from psr_operator.local.caches import caches_below
from psr_operator.local.processes import Child, start
from psr_operator.planner.types import ExitClass, Phase, Server, ServerState, Workload, WorkloadState
from psr_runtime.config import ModelOrder, ServeStage
from psr_runtime.protocol import (
    KEY_VARIABLE,
    MODEL_PATH,
    MOUNTS_VARIABLE,
    PROGRESS_PATH,
    PROGRESS_PORT_FILE_VARIABLE,
    PROGRESS_PORT_VARIABLE,
    SCRATCH_VARIABLE,
    STATE_PATH,
    TERMINATION_VARIABLE,
    FailureReason,
    ProgressReport,
    ServerPhase,
    ServerReport,
    TerminationMessage,
    control_port,
)

POLL_SECONDS = 1.0
"""Progress of a process is asked for at most this often."""
ANSWER_BYTES = 65536
TERMINATION_FILE = "result.json"
"""Holds the termination message of a process, in its folder."""


@dataclass
class _Running:
    """A Workload that was started: its processes, one a shard, and how far they were when last asked."""

    workload: Workload
    folder: Path
    children: list[Child]
    progress: float | None = None
    eta: float | None = None
    asked: float = 0.0
    failed: int | None = None
    stopped: bool = False


@dataclass
class _Serving:
    """A Server that was started: one process a replica."""

    server: Server
    folder: Path
    children: list[Child]
    ports: list[int]
    stopping: bool = False
    state: ServerState = field(default_factory=lambda: ServerState(""))
    asked: float = 0.0


class Node:
    """Starts, observes and stops processes.

    Args:
        folder: logs, termination messages and fetched checkpoints go here.
        mounts: mount path -> folder, for `file://` URIs.
        keep_open: file descriptors that every process inherits.
        python: interpreter that runs the stages.
    """

    def __init__(
        self, folder: Path, mounts: Mapping[str, Path], keep_open: tuple[int, ...] = (), python: str = sys.executable
    ) -> None:
        self._folder = folder
        self._keep_open = keep_open
        self._python = python
        self._key = secrets.token_urlsafe(24)
        scratch = folder / "scratch"
        shutil.rmtree(scratch, ignore_errors=True)  # what a killed run left; nobody else uses it
        scratch.mkdir(parents=True)
        self._environment = {
            **caches_below(folder),
            MOUNTS_VARIABLE: ",".join(f"{mount}={path}" for mount, path in mounts.items()),
            SCRATCH_VARIABLE: str(scratch),
            KEY_VARIABLE: self._key,
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            # Server and stages share these cores; threads that spin while they wait would starve each other.
            "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE"),
        }
        self._workloads: dict[str, _Running] = {}
        self._servers: dict[str, _Serving] = {}

    # --- workloads

    def run(self, workload: Workload) -> None:
        """Start a Workload that does not exist yet."""
        if workload.name in self._workloads:
            return
        folder = self._folder / "workloads" / workload.name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        children = []
        for index, config in enumerate(workload.configurations):
            place = folder / str(index)
            place.mkdir()
            (place / "config.json").write_text(json.dumps(config.to_json(), indent=1))
            environment = {
                **self._environment,
                TERMINATION_VARIABLE: str(place / TERMINATION_FILE),
                PROGRESS_PORT_VARIABLE: "0",
                PROGRESS_PORT_FILE_VARIABLE: str(place / "port"),
            }
            command = [self._python, "-m", "psr_runtime", workload.stage, "--config", str(place / "config.json")]
            children.append(start(command, environment, place / "log", self._keep_open))
        self._workloads[workload.name] = _Running(workload, folder, children)

    def stop(self, name: str) -> None:
        """Ask a Workload's processes to end."""
        running = self._workloads.get(name)
        if running is not None:
            running.stopped = True
            for child in running.children:
                child.stop()

    def workload(self, name: str) -> WorkloadState | None:
        """A Workload as observed; None for one that was never started."""
        running = self._workloads.get(name)
        if running is None:
            return None
        codes = [child.code for child in running.children]
        state = WorkloadState(name, running.workload.attempt, Phase.RUNNING)
        gone = all(code is not None for code in codes)
        if running.failed is None:
            running.failed = next((index for index, code in enumerate(codes) if code not in (None, 0)), None)
        failed = running.failed
        if failed is not None:
            for child in running.children:  # the shards of a failed attempt end with it
                child.stop()
            code = codes[failed]
            assert code is not None
            ended = ExitClass.of(code)
            if (
                running.stopped and ended is ExitClass.FAILURE
            ):  # asked to end before it could answer by a code of its own
                ended = ExitClass.TEMPORARY
            message, reason = self._failure(running, failed)
            return replace(state, phase=Phase.FAILED, exit_class=ended, message=message, reason=reason, gone=gone)
        if gone:
            result = _termination_message(running.folder / "0").result
            return replace(state, phase=Phase.SUCCEEDED, result=result, gone=True)
        self._ask_progress(running)
        return replace(state, progress=running.progress, eta=running.eta)

    def _failure(self, running: _Running, index: int) -> tuple[str, FailureReason | None]:
        """Message and reason of a process that has failed."""
        code = running.children[index].code
        left = _termination_message(running.folder / str(index))
        if left.error and left.reason is not None:  # it says what to do about it
            return f"{left.error} ({_ended(code)})", left.reason
        child = running.children[index]
        words = f"{left.error}; see {child.log}" if left.error else child.failure_words()
        return f"{_ended(code)}: {words}", left.reason

    def _ask_progress(self, running: _Running) -> None:
        now = time.monotonic()
        if now - running.asked < POLL_SECONDS:
            return
        running.asked = now
        reports = []
        for index in range(len(running.children)):
            with contextlib.suppress(OSError, ValueError):
                port = int((running.folder / str(index) / "port").read_text())
                reports.append(ProgressReport.read(_get(f"http://127.0.0.1:{port}{PROGRESS_PATH}")))
        known = [report for report in reports if report is not None]
        if known:
            running.progress = sum(report.fraction for report in known) / len(known)
            running.eta = max((report.eta for report in known if report.eta is not None), default=None)

    # --- servers

    def serve(self, server: Server) -> None:
        """Start a Server, or have the one that runs exchange its model."""
        serving = self._servers.get(server.name)
        if serving is None or (serving.stopping and all(child.code is not None for child in serving.children)):
            self._start_server(server)
            return
        if serving.stopping or serving.server.model == server.model:
            return
        if server.digest is None:
            self.release(server.name)  # nothing distinguishes it from the present one: start anew
            return
        serving.server = server
        serving.asked = 0.0

    def _start_server(self, server: Server) -> None:
        folder = self._folder / "servers" / server.name
        shutil.rmtree(folder, ignore_errors=True)
        ports, children = [], []
        for index in range(server.replicas):
            place = folder / str(index)
            (place / "scratch").mkdir(parents=True)
            port = server.port + 2 * index if server.port is not None else _free_port()
            config = ServeStage(
                model=server.model,
                engine=server.seeded_engine,
                storage=server.storage,
                port=port,
                scratch=str(place / "scratch"),
                pins=server.pins,
            )
            (place / "config.json").write_text(json.dumps(config.to_json(), indent=1))
            command = [self._python, "-m", "psr_runtime", "serve", "--config", str(place / "config.json")]
            environment = {**self._environment, TERMINATION_VARIABLE: str(place / TERMINATION_FILE)}
            children.append(start(command, environment, place / "log", self._keep_open))
            ports.append(port)
        self._servers[server.name] = _Serving(server, folder, children, ports)

    def release(self, name: str) -> None:
        """Ask a Server's processes to end."""
        serving = self._servers.get(name)
        if serving is not None:
            serving.stopping = True
            for child in serving.children:
                child.stop()

    def server(self, name: str) -> ServerState | None:
        """A Server as observed; None for one that was never started."""
        serving = self._servers.get(name)
        if serving is None:
            return None
        codes = [child.code for child in serving.children]
        gone = all(code is not None for code in codes)
        if serving.stopping:
            return ServerState(name, message="stopping", gone=gone)
        if any(code is not None for code in codes):
            index = next(index for index, code in enumerate(codes) if code is not None)
            for child in serving.children:
                child.stop()
            left = _termination_message(serving.folder / str(index))
            ended = serving.children[index]
            words = f"{left.error}; see {ended.log}" if left.error else ended.failure_words()
            message = f"{words} (replica {index}, {_ended(codes[index])})"
            reason = left.reason or FailureReason.of_code(codes[index] or 0)
            return ServerState(name, message=message, failed=True, reason=reason, gone=gone)
        now = time.monotonic()
        if now - serving.asked >= POLL_SECONDS / 2:
            serving.asked = now
            serving.state = self._ask_server(serving)
        return serving.state

    def _ask_server(self, serving: _Serving) -> ServerState:
        """Ready when every replica serves the wanted model and has proved it."""
        name, wanted = serving.server.name, serving.server
        reports = []
        for port in serving.ports:
            try:
                report = ServerReport.read(_get(f"{_control_url(port)}{STATE_PATH}", self._key))
            except (OSError, ValueError):
                report = None
            if report is None:
                return ServerState(name, message="starting")
            reports.append(report)
        for port, report in zip(serving.ports, reports, strict=True):
            if wanted.digest is not None and report.digest not in (wanted.digest, None):
                order = ModelOrder(model=wanted.model, digest=wanted.digest)
                with contextlib.suppress(OSError, ValueError):
                    _put(f"{_control_url(port)}{MODEL_PATH}", order.to_json(), self._key)
                return ServerState(name, message=f"exchanging the model for {wanted.model.uri}")
        failed = next((report for report in reports if report.phase == ServerPhase.FAILED), None)
        if failed is not None:
            log = serving.children[reports.index(failed)].log
            return ServerState(name, message=f"{failed.message}; see {log}", failed=True, reason=failed.reason)
        waiting = next((report for report in reports if report.phase != ServerPhase.READY), None)
        if waiting is not None:
            return ServerState(name, message=f"{waiting.phase}: {waiting.message or wanted.model.uri}")
        return ServerState(
            name,
            endpoints=tuple(f"http://127.0.0.1:{port}" for port in serving.ports),
            ready=wanted.model.uri,
            digest=reports[0].served,
            message="serving",
        )

    # --- the end

    def stop_all(self) -> None:
        """Ask everything to end and wait until nothing is left."""
        children = [child for running in self._workloads.values() for child in running.children]
        children += [child for serving in self._servers.values() for child in serving.children]
        while any(child.code is None for child in children):
            for child in children:
                child.stop()
            time.sleep(0.05)


def _ended(code: int | None) -> str:
    """How a process ended. SIGKILL is what a machine without memory sends; `psr run` itself sends it last."""
    if code is not None and code >= 0:
        return f"exit code {code}"
    number = -(code or 0)
    return f"signal {number}, perhaps for lack of memory" if number == signal.SIGKILL else f"signal {number}"


def _control_url(port: int) -> str:
    """Base URL of the control port of a replica whose API is at `port`."""
    return f"http://127.0.0.1:{control_port(port)}"


def _free_port() -> int:
    """A port whose control port is free as well."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port: int = first.getsockname()[1]
            with contextlib.suppress(OSError, OverflowError):
                second.bind(("127.0.0.1", control_port(port)))
                return port


def _termination_message(folder: Path) -> TerminationMessage:
    """What a process has left in its folder; an empty message where it has left none."""
    try:
        return TerminationMessage.read((folder / TERMINATION_FILE).read_text())
    except (OSError, UnicodeDecodeError):
        return TerminationMessage()


def _get(url: str, key: str | None = None) -> Any:
    return _ask(urllib.request.Request(url), key)


def _put(url: str, body: Mapping[str, Any], key: str) -> Any:
    data = json.dumps(body).encode()
    return _ask(urllib.request.Request(url, data=data, method="PUT", headers={"Content-Type": "application/json"}), key)


def _ask(request: urllib.request.Request, key: str | None) -> Any:
    """The JSON document that a process of this machine answers with.

    Raises:
        OSError: it does not answer.
        ValueError: the answer is no JSON.
    """
    if key is not None:
        request.add_header("Authorization", f"Bearer {key}")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=2.0) as answer:
        return json.loads(answer.read(ANSWER_BYTES) or b"null")
