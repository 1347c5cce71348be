"""A proxy between an operator and the apiserver, through which a test sees every write and does harm.

    with start_proxy(plane) as proxy, start_operator(account, folder, server=proxy.url):
        proxy.mute_watches()
        …

Plain HTTP on a loopback port in front, the apiserver's https behind; whoever asks is whoever the Authorization header
says. Writes are kept with the apiserver's answer, even where the operator never gets it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

import aiohttp
from aiohttp import web

from harness.control_plane.plane import ControlPlane

Action = Literal["pass", "cut before", "cut after"]
"""What becomes of a write. `cut before`: the operator is killed instead; `cut after`: once it has had an effect."""
START_SECONDS = 30.0
HOP_BY_HOP = frozenset({"host", "connection", "transfer-encoding", "content-length", "keep-alive"})
GONE = {
    "type": "ERROR",
    "object": {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": "too old resource version",
        "reason": "Expired",
        "code": 410,
    },
}


@dataclass(frozen=True)
class Request:
    """One request of the operator.

    Attributes:
        resource: plural, with `/status` where it is about that.
        name: of the object, for a POST that of the body.
        dry: whether nothing is to be stored.
    """

    verb: str
    path: str
    resource: str
    namespace: str
    name: str
    watch: bool = False
    dry: bool = False
    body: bytes = b""

    @property
    def writes(self) -> bool:
        return self.verb not in ("GET", "HEAD") and not self.dry

    def __str__(self) -> str:
        return f"{self.verb} {self.resource} {self.namespace}/{self.name}"


@dataclass(frozen=True)
class Written:
    """A write that has reached the apiserver.

    Attributes:
        status: of its answer.
        changed: whether anything is stored now that was not before.
        began, ended: monotonic seconds of this process.
    """

    request: Request
    status: int
    changed: bool
    began: float
    ended: float


@dataclass
class Proxy:
    """See the module. Its attributes may be set and its methods called from any thread.

    Attributes:
        on_write: decides about the n-th write (from 1) that is tried.
        kill: ends the operator; called when a write was cut.
        dead: whether the operator was killed: nothing is let through until `revive`.
        refuse: HTTP status to answer instead of the apiserver, None to ask it.
        delay: seconds before a request is forwarded.
        uncounted: resources whose writes `on_write` is not asked about.
        tried: writes that `on_write` was asked about.
        written: every write that has reached the apiserver.
    """

    plane: ControlPlane
    on_write: Callable[[int, Request], Action] | None = None
    kill: Callable[[], None] = lambda: None
    refuse: Callable[[Request], int | None] = lambda _request: None
    delay: Callable[[Request], float] = lambda _request: 0.0
    uncounted: frozenset[str] = frozenset({"leases", "events"})
    dead: bool = False
    tried: list[Request] = field(default_factory=list)
    written: list[Written] = field(default_factory=list)
    refused: int = 0
    url: str = ""
    _generation: int = 0
    _versions: set[str] = field(default_factory=set)
    _muted: bool = False
    _streams: set[asyncio.Future[str]] = field(default_factory=set)

    # --- what tests say and ask

    @property
    def counted(self) -> list[Written]:
        """Writes of everything but Leases and Events."""
        return [item for item in list(self.written) if item.request.resource not in self.uncounted]

    def created(self) -> Counter[str]:
        """How often each object was made."""
        requests = (item.request for item in self.counted if item.request.verb == "POST" and item.status == 201)
        return Counter(f"{request.resource} {request.namespace}/{request.name}" for request in requests)

    @property
    def watches(self) -> int:
        """Watches that are open now, muted ones included."""
        return len(self._streams)

    def mute_watches(self) -> None:
        """Cut every watch; those that come say nothing until `expire_watches`. Returns once as many are there again."""
        count = self.watches
        self._muted = True
        cut = list(self._streams)
        self._order("cut")
        deadline = time.monotonic() + START_SECONDS
        while self.watches < count or any(stream in self._streams for stream in cut):
            assert time.monotonic() < deadline, f"{self.watches} of {count} watches came back"
            time.sleep(0.02)

    def expire_watches(self) -> None:
        """Answer every watch with 410 Gone; those that come are forwarded."""
        self._muted = False
        self._order("gone")

    def revive(self) -> None:
        """Let the next operator through, and nothing that the last one may have left on its way."""
        done = threading.Event()

        def begin() -> None:
            for connection in self._server.connections:
                if connection.transport is not None:
                    connection.transport.abort()
            self._generation += 1
            self.dead = False
            done.set()

        self._loop.call_soon_threadsafe(begin)
        assert done.wait(START_SECONDS)

    # --- the thread

    def _order(self, what: str) -> None:
        def tell() -> None:
            for stream in self._streams:
                if not stream.done():
                    stream.set_result(what)

        self._loop.call_soon_threadsafe(tell)

    def _run(self, started: threading.Event) -> None:
        asyncio.run(self._serve(started))

    async def _serve(self, started: threading.Event) -> None:
        self._loop, self._stopped = asyncio.get_running_loop(), asyncio.Event()
        self._turn = asyncio.Lock()
        context = ssl.create_default_context(cafile=str(self.plane.ca))
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=context),
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=10),
        ) as self._session:
            self._server = web.Server(self._answer, access_log=None, handler_cancellation=True)
            runner = web.ServerRunner(self._server)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0, shutdown_timeout=0.1)
            await site.start()
            self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            started.set()
            await self._stopped.wait()
            self.dead = True
            for stream in self._streams:
                if not stream.done():
                    stream.set_result("cut")
            await runner.cleanup()

    # --- one request

    async def _answer(self, raw: web.BaseRequest) -> web.StreamResponse:
        generation = self._generation
        body = await raw.read()
        request = _read(raw, body)
        pause = self.delay(request)
        if pause:
            await asyncio.sleep(pause)
        if self.dead or generation != self._generation:
            return _cut(raw)
        status = self.refuse(request)
        if status is not None:
            self.refused += 1
            return web.json_response(_failure(status), status=status)
        try:
            if request.watch:
                return await self._watch(raw)
            if request.writes:
                return await asyncio.shield(self._write(raw, request, body, generation))
            return (await self._forward(raw, body))[1]
        except (aiohttp.ClientError, OSError):
            return _cut(raw)

    async def _write(self, raw: web.BaseRequest, request: Request, body: bytes, generation: int) -> web.StreamResponse:
        if self.on_write is None or request.resource in self.uncounted:
            return await self._note(raw, request, body)
        async with self._turn:  # one at a time, so that a death is between two of them
            if self.dead or generation != self._generation:
                return _cut(raw)
            self.tried.append(request)
            action = self.on_write(len(self.tried), request)
            if action == "cut before":
                return self._die(raw)
            response = await self._note(raw, request, body)
            return self._die(raw) if action == "cut after" and self.written[-1].changed else response

    def _die(self, raw: web.BaseRequest) -> web.StreamResponse:
        self.dead = True
        self.kill()
        return _cut(raw)

    async def _note(self, raw: web.BaseRequest, request: Request, body: bytes) -> web.Response:
        began = time.monotonic()
        status, response = await self._forward(raw, body)
        self.written.append(Written(request, status, self._changed(status, response), began, time.monotonic()))
        return response

    def _changed(self, status: int, response: web.Response) -> bool:
        """Whether a write had an effect: it was not refused, and gave the object another version."""
        if status >= 300:
            return False
        assert isinstance(response.body, bytes)
        version = json.loads(response.body).get("metadata", {}).get("resourceVersion", "")
        new = version == "" or version not in self._versions
        self._versions.add(version)
        return new

    async def _forward(self, raw: web.BaseRequest, body: bytes) -> tuple[int, web.Response]:
        async with self._ask(raw, body) as answer:
            text = await answer.read()
            return answer.status, web.Response(body=text, status=answer.status, headers=_passed_on(answer.headers))

    async def _watch(self, raw: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        order: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._streams.add(order)
        pump = None if self._muted else asyncio.create_task(self._pump(raw, response))
        try:
            if pump is None:
                await response.prepare(raw)
            await asyncio.wait({order, *([pump] if pump else [])}, return_when=asyncio.FIRST_COMPLETED)
            if not order.done():
                assert pump is not None
                return pump.result()
            if order.result() == "cut" or (pump is not None and not response.prepared):
                return _cut(raw)
            await response.write(json.dumps(GONE).encode() + b"\n")
            await response.write_eof()
            return response
        finally:
            self._streams.discard(order)
            if pump is not None:
                pump.cancel()
                await asyncio.gather(pump, return_exceptions=True)

    async def _pump(self, raw: web.BaseRequest, response: web.StreamResponse) -> web.StreamResponse:
        """Hand on what the apiserver says, as it comes and event by event."""
        async with self._ask(raw, b"") as answer:
            if answer.status != 200:
                text = await answer.read()
                return web.Response(body=text, status=answer.status, headers=_passed_on(answer.headers))
            await response.prepare(raw)
            rest = b""
            async for chunk in answer.content.iter_any():
                whole, newline, rest = (rest + chunk).rpartition(b"\n")
                if newline:
                    await response.write(whole + newline)
            await response.write_eof()
            return response

    @contextlib.asynccontextmanager
    async def _ask(self, raw: web.BaseRequest, body: bytes) -> AsyncIterator[aiohttp.ClientResponse]:
        headers = {name: value for name, value in _passed_on(raw.headers).items() if name.lower() != "accept-encoding"}
        async with self._session.request(
            raw.method, self.plane.url + raw.raw_path, data=body or None, headers=headers
        ) as answer:
            yield answer


@contextlib.contextmanager
def start_proxy(plane: ControlPlane) -> Iterator[Proxy]:
    """Run a proxy until the block ends."""
    proxy, started = Proxy(plane), threading.Event()
    thread = threading.Thread(target=proxy._run, args=(started,), name="proxy", daemon=True)
    thread.start()
    assert started.wait(START_SECONDS), "the proxy did not start"
    try:
        yield proxy
    finally:
        proxy._loop.call_soon_threadsafe(proxy._stopped.set)
        thread.join(START_SECONDS)


def _read(raw: web.BaseRequest, body: bytes) -> Request:
    """What a request is about. Paths: /api/v1/… and /apis/GROUP/VERSION/…, with or without namespaces/NAME."""
    parts = urlsplit(raw.path).path.strip("/").split("/")
    parts = parts[2:] if parts[0] == "api" else parts[3:]
    namespace = ""
    if len(parts) > 2 and parts[0] == "namespaces":
        namespace, parts = parts[1], parts[2:]
    resource, name = parts[0] if parts else "", parts[1] if len(parts) > 1 else ""
    if len(parts) > 2:
        resource = f"{resource}/{parts[2]}"
    if raw.method == "POST" and not name:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            name = json.loads(body)["metadata"]["name"]
    query = raw.query
    return Request(
        raw.method,
        raw.path,
        resource,
        namespace,
        name,
        watch=query.get("watch") in ("true", "1"),
        dry="dryRun" in query,
        body=body,
    )


def _passed_on(headers: Any) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() not in HOP_BY_HOP}


def _cut(raw: web.BaseRequest) -> web.StreamResponse:
    """End the connection without an answer."""
    if raw.transport is not None:
        raw.transport.abort()
    return web.Response()


def _failure(code: int) -> dict[str, Any]:
    reason = {429: "TooManyRequests", 500: "InternalError", 503: "ServiceUnavailable"}.get(code, "")
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "reason": reason,
        "message": "not now",
        "code": code,
    }
