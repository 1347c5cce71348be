"""The control port of a server: `/psr/ready`, `/psr/model`, `/psr/state`, and the state that they report.

HTTP only: what the state is, and what an order leads to, is decided in `serve.py`.
"""

from __future__ import annotations

import hmac
import json
import os
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from types import TracebackType
from typing import Any, Literal, Protocol
from urllib.parse import parse_qs, urlsplit

from pydantic import ValidationError

from psr_runtime.artefacts.fingerprint import Check
from psr_runtime.config import ModelOrder, ModelSource
from psr_runtime.protocol import KEY_VARIABLE, MODEL_PATH, READY_PATH, STATE_PATH, FailureReason, ServerPhase
from psr_runtime.protocol.addresses import http_server
from psr_runtime.protocol.errors import ConfigurationError

BODY_BYTES = 64 * 1024
REQUEST_SECONDS = 30


@dataclass(frozen=True)
class Change:
    """How the model that is served came in.

    Attributes:
        kind: `Start` of vLLM, `Restart` of it, or `Swap` of the weights in place.
        seconds: from the order to the open gate.
        why: why it was no swap; empty for one.
    """

    kind: Literal["Start", "Restart", "Swap"]
    seconds: float
    why: str


@dataclass(frozen=True)
class State:
    """What the control port reports; who reads it does so by `protocol.ServerReport`.

    Attributes:
        state: what is going on; `READY` when the wanted model is served.
        digest: the model that is wanted; None until the first one's is known.
        served: the model that clients may use now; None while the gate is closed.
        message: for people.
        reason: why it failed; None while it has not, or where the failure is of no class.
        check: the last check of the loaded weights; None for a model without fingerprint.
        deaths: how often vLLM ended by itself.
    """

    state: ServerPhase = ServerPhase.FETCHING
    digest: str | None = None
    served: str | None = None
    message: str = ""
    reason: FailureReason | None = None
    check: Check | None = None
    change: Change | None = None
    deaths: int = 0
    pid: int | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "state": self.state,
            "digest": self.digest,
            "served": self.served,
            "message": self.message,
            "reason": self.reason,
            "check": self.check.to_json() if self.check else None,
            "change": vars(self.change) if self.change else None,
            "deaths": self.deaths,
            "pid": self.pid,
        }


class Controlled(Protocol):
    """What the control port speaks for."""

    def ready(self, digest: str) -> bool:
        """Whether clients may use model `digest` now."""
        ...

    def describe(self) -> dict[str, Any]:
        """Everything that is known, as JSON values; at least `state`, `digest`, `message` and `check`."""
        ...

    def order(self, model: ModelSource, digest: str) -> None:
        """Ask for another model; returns at once."""
        ...


class ControlServer:
    """Serves the control port while it is entered.

    Args:
        host, port: address to bind.
        controlled: what the port speaks for.

    Raises:
        ConfigurationError: the port cannot be bound.
    """

    def __init__(self, host: str, port: int, controlled: Controlled) -> None:
        key = os.environ.get(KEY_VARIABLE, "")

        class Handler(ControlHandler):
            bearer = f"Bearer {key}" if key else ""
            served = controlled

        try:
            self._server = http_server(host, port, Handler)
        except OSError as error:
            raise port_error(host, port, error) from error
        self._server.daemon_threads = True

    def __enter__(self) -> ControlServer:
        threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True, name="control").start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


def port_error(host: str, port: int, error: OSError) -> ConfigurationError:
    """The error for an address that cannot be bound."""
    return ConfigurationError(
        f"port {port} on {host} cannot be bound ({error.strerror}); stop what uses it or choose another port"
    )


class ControlHandler(BaseHTTPRequestHandler):
    """One request to the control port."""

    protocol_version = "HTTP/1.1"
    timeout = REQUEST_SECONDS
    bearer = ""
    served: Controlled

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        digest = parse_qs(address.query).get("digest", [""])[0]
        if address.path == READY_PATH and not digest:
            self._probe()
            return
        if not self._allowed():
            return
        if address.path == STATE_PATH:
            self._answer(200, self.served.describe())
        elif address.path == READY_PATH:
            about = self.served.describe()
            if self.served.ready(digest):
                self._answer(200, {"digest": digest, "check": about["check"]})
            else:
                self._answer(503, {key: about[key] for key in ("state", "digest", "message")})
        else:
            self._answer(404, {"error": f"{address.path}: there are {READY_PATH}, {MODEL_PATH} and {STATE_PATH}"})

    def do_PUT(self) -> None:
        length = self.headers.get("Content-Length", "")
        # The body is read before any answer: a client that still sends sees a reset connection and no answer.
        body = self.rfile.read(min(int(length), BODY_BYTES + 1)) if length.isdecimal() else b""
        if not self._allowed():
            return
        if urlsplit(self.path).path != MODEL_PATH:
            self._answer(404, {"error": f"{self.path}: only {MODEL_PATH} can be put"})
            return
        if not body or len(body) > BODY_BYTES:
            self.close_connection = True
            self._answer(413, {"error": f"send a body of 1 to {BODY_BYTES} bytes with its Content-Length"})
            return
        try:
            order = ModelOrder.model_validate_json(body)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the body"
            self._answer(400, {"error": f"{where}: {first['msg']}"})
            return
        self.served.order(order.model, order.digest)
        self._answer(202, {key: self.served.describe()[key] for key in ("state", "digest", "message")})

    def _probe(self) -> None:
        """Whether the wanted model is served, and nothing more: a kubelet has no key and names no model."""
        wanted = self.served.describe()["digest"]
        ready = wanted is not None and self.served.ready(wanted)
        self._answer(200 if ready else 503, {"ready": ready})

    def _allowed(self) -> bool:
        if self.bearer and not hmac.compare_digest(
            self.headers.get("Authorization", "").encode(), self.bearer.encode()
        ):
            self._answer(401, {"error": f"no or wrong bearer key; send Authorization: Bearer ${KEY_VARIABLE}"})
            return False
        return True

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if status == 503:
            self.send_header("Retry-After", "1")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Requests are not logged: probes come every few seconds."""
