"""What the pods that `player.py` plays answer over HTTP: a stage's `/progress`, a server's control port.

Every pod has a loopback address of its own, and every player a /16 of them, so that several can be on one machine.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

PROGRESS_PORT = 8090


@dataclass(frozen=True)
class Order:
    """A `PUT /psr/model` as it was received."""

    pod: str
    uri: str
    digest: str
    bearer: str


class Ports:
    """Listens on the pods' addresses; which pod is asked is told by the address that was connected to."""

    def __init__(self) -> None:
        self._asked: dict[str, Callable[[web.BaseRequest], Awaitable[web.Response]]] = {}
        self._open: dict[str, list[asyncio.Server]] = {}
        self._server = web.Server(self._answer, access_log=None)
        self._claim, self._prefix = _claimed_prefix()
        self._count = 0

    def address(self) -> str:
        """The next free address."""
        self._count += 1
        return f"{self._prefix}.{self._count // 250}.{self._count % 250 + 1}"

    async def open(
        self, address: str, ports: tuple[int, ...], answer: Callable[[web.BaseRequest], Awaitable[web.Response]]
    ) -> None:
        """Answer on these ports of an address."""
        self._asked[address] = answer
        loop = asyncio.get_running_loop()
        self._open[address] = [await loop.create_server(self._server, address, port) for port in ports]

    def close(self, address: str) -> None:
        """Refuse connections from now on."""
        self._asked.pop(address, None)
        for server in self._open.pop(address, []):
            server.close()

    async def close_all(self) -> None:
        for address in list(self._open):
            self.close(address)
        await self._server.shutdown(0.1)
        self._claim.close()

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        assert request.transport is not None
        answer = self._asked.get(request.transport.get_extra_info("sockname")[0])
        if answer is None:
            return web.json_response({"error": "this pod has ended"}, status=503)
        return await answer(request)


@dataclass
class Serving:
    """A server pod's control port, as `psr_runtime/serving/control.py` answers it.

    Attributes:
        name: of the pod.
        load_seconds: from an order to its end.
        broken: URI -> message, of models that cannot be loaded.
        orders: every order that came, of all pods.
        changed: called whenever `ready` may have changed.
    """

    name: str
    load_seconds: Callable[[], float]
    broken: Mapping[str, str]
    orders: list[Order]
    changed: Callable[[], object]
    state: dict[str, Any] = field(
        default_factory=lambda: {
            "state": "Fetching",
            "digest": None,
            "served": None,
            "message": "",
            "check": None,
            "change": None,
            "deaths": 0,
            "pid": 1,
        }
    )
    _loading: asyncio.Task[None] | None = None

    @property
    def ready(self) -> bool:
        return bool(self.state["state"] == "Ready")

    def load(self, uri: str, digest: str | None, *, first: bool) -> None:
        """Begin to load a model; its digest, where none is ordered, is that of its URI."""
        if self._loading is not None:
            self._loading.cancel()
        known = digest or digest_of(uri)
        self.state |= {"state": "Fetching", "digest": digest, "message": f"fetching {uri}"}
        self._loading = asyncio.create_task(self._load(uri, known, first))

    def stop(self) -> None:
        if self._loading is not None:
            self._loading.cancel()

    async def _load(self, uri: str, digest: str, first: bool) -> None:
        seconds = self.load_seconds()
        await asyncio.sleep(seconds / 2)
        self.state |= {"state": "Starting" if first else "Swapping", "digest": digest, "served": None}
        self.changed()
        await asyncio.sleep(seconds / 2)
        if uri in self.broken:
            self.state |= {"state": "Failed", "message": self.broken[uri]}
        else:
            change = {"kind": "Start" if first else "Swap", "seconds": seconds, "why": ""}
            self.state |= {"state": "Ready", "served": digest, "message": "", "change": change}
        self.changed()

    async def answer(self, request: web.BaseRequest) -> web.Response:
        if (request.method, request.path) == ("GET", "/psr/state"):
            return web.json_response(self.state)
        if (request.method, request.path) == ("GET", "/psr/ready"):
            ready = self.ready and self.state["served"] == request.query.get("digest")
            return web.json_response(self.state, status=200 if ready else 503)
        if (request.method, request.path) != ("PUT", "/psr/model"):
            return web.json_response({"error": f"{request.path}: not here"}, status=404)
        body = json.loads(await request.read())
        bearer = request.headers.get("Authorization", "").removeprefix("Bearer ")
        uri, digest = body["model"]["uri"], body["digest"]
        self.orders.append(Order(self.name, uri, digest, bearer))
        if self.state["digest"] != digest or self.state["state"] == "Failed":
            self.load(uri, digest, first=False)
        return web.json_response({key: self.state[key] for key in ("state", "digest", "message")}, status=202)


def digest_of(uri: str) -> str:
    """The digest that a played artefact has."""
    return f"sha256:{hashlib.sha256(uri.encode()).hexdigest()}"


def _claimed_prefix() -> tuple[socket.socket, str]:
    """A /16 of loopback addresses that no other player of this machine uses while the socket is open."""
    for second in secrets.SystemRandom().sample(range(1, 255), 254):
        claim = socket.socket()
        try:
            claim.bind((f"127.{second}.255.254", PROGRESS_PORT))
        except OSError:
            claim.close()
            continue
        claim.listen()
        return claim, f"127.{second}"
    raise OSError(f"every loopback /16 is in use on port {PROGRESS_PORT}; something else listens on 0.0.0.0")
