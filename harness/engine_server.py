"""A real server (supervisor, vLLM, a model) for tests. It takes some 30 seconds to start, so share it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from harness.ports import free_ports
from psr_runtime.artefacts.checkpoints import model_digest
from psr_runtime.config import StorageAccess
from psr_runtime.storage import Storage

READY_SECONDS = 400.0
QUICK: dict[str, Any] = {"dtype": "float32", "enforceEager": True}
"""Engine fields of a test's server, unless the test says otherwise."""


@dataclass
class EngineServer:
    """A running server.

    Attributes:
        url: OpenAI API, for `server.urls` of a stage's configuration.
        control_url: the supervisor.
        digest: the model that was asked for last.
        process: the supervisor's process.
        log: what supervisor and vLLM print.
        key: the bearer key, empty for an open server.
    """

    url: str
    control_url: str
    digest: str
    process: subprocess.Popen[bytes]
    log: Path
    key: str = ""

    @property
    def bearer(self) -> dict[str, str]:
        """The header that shows the key."""
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}

    @property
    def headers(self) -> dict[str, str]:
        """What a client of the present model sends along."""
        return self.bearer | {"X-PSR-Model-Digest": self.digest}

    def put_model(self, uri: str, *, digest: str | None = None) -> str:
        """Order the model at `uri` (by its true digest unless another is given); the digest that was ordered."""
        self.digest = digest or model_digest(Storage(StorageAccess()), uri)
        body = {"model": {"uri": uri}, "digest": self.digest}
        httpx.put(f"{self.control_url}/psr/model", json=body, headers=self.bearer, timeout=30).raise_for_status()
        return self.digest

    def state(self) -> dict[str, Any]:
        """What `/psr/state` tells."""
        state: dict[str, Any] = httpx.get(f"{self.control_url}/psr/state", headers=self.bearer, timeout=30).json()
        return state

    def ready(self, digest: str | None = None) -> bool:
        """Whether the server is ready for a model, at this moment."""
        answer = httpx.get(
            f"{self.control_url}/psr/ready",
            params={"digest": digest or self.digest},
            headers=self.bearer,
            timeout=30,
        )
        return answer.status_code == 200

    def wait_ready(self, digest: str | None = None) -> dict[str, Any]:
        """Wait until the server is ready for a model; its state then. Fails at once where it says Failed."""
        state = self.wait_settled()
        wanted = digest or self.digest
        assert state["state"] == "Ready", f"{state}\n{self.tail()}"
        assert self.ready(wanted), f"ready for {state['served']}, not for {wanted}"
        return state

    def wait_settled(self) -> dict[str, Any]:
        """Wait until the server is ready or has failed; its state then."""
        end = time.monotonic() + READY_SECONDS
        while time.monotonic() < end:
            assert self.process.poll() is None, f"the server ended with {self.process.returncode}\n{self.tail()}"
            with contextlib.suppress(httpx.TransportError):
                state = self.state()
                if state["state"] in ("Ready", "Failed"):
                    return state
            time.sleep(0.1)
        raise AssertionError(f"not ready in {READY_SECONDS:.0f} s\n{self.tail()}")

    def tail(self, lines: int = 60) -> str:
        """The end of the log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


@contextlib.contextmanager
def start_server(
    model_uri: str,
    scratch: Path,
    port: int | None = None,
    *,
    key: str = "",
    chat_template: str | None = None,
    **engine: Any,
) -> Iterator[EngineServer]:
    """Run a server of the model at `model_uri` and wait until it is ready; it ends with the block.

    Args:
        scratch: a folder for its files and its log.
        port: port of the API; the next one is for control. Free ones unless given.
        key: bearer key that the server asks for; none unless given.
        engine: fields of `EngineConfig` by their names in a manifest, over `QUICK`.
    """
    server = launch_server(model_uri, scratch, port, key=key, chat_template=chat_template, **engine)
    try:
        server.wait_ready()
        yield server
    except BaseException:
        print(server.tail(), file=sys.stderr)
        raise
    finally:
        server.process.send_signal(signal.SIGTERM)
        try:
            server.process.wait(60)
        except subprocess.TimeoutExpired:
            server.process.kill()
            server.process.wait()


def launch_server(
    model_uri: str,
    scratch: Path,
    port: int | None = None,
    *,
    key: str = "",
    chat_template: str | None = None,
    **engine: Any,
) -> EngineServer:
    """Start a server without waiting for it; whoever calls this ends `process`. Arguments as of `start_server`."""
    scratch.mkdir(parents=True, exist_ok=True)
    port = free_ports(2)[0] if port is None else port
    model = {"uri": model_uri} | ({"chatTemplate": chat_template} if chat_template else {})
    config = {"model": model, "engine": QUICK | engine, "port": port, "scratch": str(scratch)}
    log = scratch / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "psr_runtime", "serve"],
            env=os.environ | {"PSR_STAGE_CONFIG": json.dumps(config), "PSR_SERVER_KEY": key},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    digest = model_digest(Storage(StorageAccess()), model_uri)
    return EngineServer(f"http://127.0.0.1:{port}", f"http://127.0.0.1:{port + 1}", digest, process, log, key)
