"""The door of a vLLM server: an ASGI middleware that vLLM loads (`--middleware psr_runtime.serving.guard.Guard`).

| path | who may |
| --- | --- |
| `/health` | everybody |
| `/metrics`, `/version` | the bearer key |
| `/v1/…` | the bearer key, with the digest of the model that is served, while the gate is open |
| everything else (vLLM's development routes, the gate itself) | the supervisor's token |

The supervisor moves the gate by `POST /psr/gate {"digest": …, "open": …}`. The answer counts the requests that are
still inside, so that weights are only exchanged when none is left: a request that came in for M(i) but has not
reached the engine would otherwise be answered by M(i+1). Nothing is imported here but the standard library and
`protocol`, which imports nothing else either.
"""

from __future__ import annotations

import hmac
import json
import os
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from psr_runtime.protocol import DIGEST_HEADER, KEY_VARIABLE

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

TOKEN_VARIABLE = "PSR_GUARD_TOKEN"
"""Environment variable that gives the supervisor's token to the vLLM process."""

TOKEN_HEADER = "X-PSR-Token"
GATE = "/psr/gate"
FREE = frozenset({"/health"})
READABLE = frozenset({"/metrics", "/metrics/", "/version"})
GATE_BYTES = 4096


class Guard:
    """ASGI middleware. It starts closed.

    Args:
        app: vLLM's application.
        environment: where token and key are read; None for `os.environ`.
    """

    def __init__(self, app: App, environment: Mapping[str, str] | None = None) -> None:
        environment = os.environ if environment is None else environment
        self._app = app
        self._token = environment.get(TOKEN_VARIABLE, "")
        self._key = environment.get(KEY_VARIABLE, "")
        self._digest: str | None = None
        self._open = False
        self._inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        path = str(scope["path"]).removeprefix(str(scope.get("root_path", "")))
        refusal = self._refusal(path, _headers(scope))
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
        elif refusal is not None:
            status, body = refusal
            await _answer(send, status, body)
        elif path == GATE:
            await self._gate(scope["method"], receive, send)
        elif path.startswith("/v1/"):
            self._inside += 1
            try:
                await self._app(scope, receive, send)
            finally:
                self._inside -= 1
        else:
            await self._app(scope, receive, send)

    def _refusal(self, path: str, headers: Mapping[str, str]) -> tuple[int, dict[str, Any]] | None:
        """Status and body of the refusal, or None where the request may pass."""
        if path in FREE:
            return None
        if self._key and not _equal(headers.get("authorization", ""), f"Bearer {self._key}"):
            return 401, {"error": f"no or wrong bearer key; send Authorization: Bearer ${KEY_VARIABLE}"}
        if self._token and _equal(headers.get(TOKEN_HEADER.lower(), ""), self._token):
            return None
        if path in READABLE:
            return None
        if not path.startswith("/v1/"):
            return 403, {"error": f"{path} is for the supervisor of this server only"}
        if not self._open:
            return 503, {"error": "the server is not ready", "served": self._digest}
        asked = headers.get(DIGEST_HEADER.lower())
        if asked is None or asked != self._digest:
            what = f"{DIGEST_HEADER} names {asked}" if asked else f"{DIGEST_HEADER} is missing"
            return 409, {"error": f"{what}; this server serves {self._digest}", "served": self._digest, "asked": asked}
        return None

    async def _gate(self, verb: str, receive: Receive, send: Send) -> None:
        if verb == "POST":
            try:
                order = json.loads(await _body(receive))
                digest, is_open = order["digest"], order["open"]
                if not isinstance(is_open, bool) or not isinstance(digest, str | None):
                    raise ValueError("digest must be a string or null, open a boolean")
            except (ValueError, KeyError, TypeError) as error:
                await _answer(send, 400, {"error": f"{GATE} takes {{digest, open}}: {error}"})
                return
            self._digest, self._open = digest, is_open
        await _answer(send, 200, {"digest": self._digest, "open": self._open, "inside": self._inside})


def _headers(scope: Scope) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}


def _equal(sent: str, wanted: str) -> bool:
    """Whether two secrets are the same, in time that does not tell where they differ."""
    return hmac.compare_digest(sent.encode(), wanted.encode())


async def _body(receive: Receive) -> bytes:
    data = b""
    while True:
        message = await receive()
        data += bytes(message.get("body", b""))
        if len(data) > GATE_BYTES:
            raise ValueError(f"more than {GATE_BYTES} bytes")
        if message["type"] != "http.request" or not message.get("more_body", False):
            return data


async def _answer(send: Send, status: int, body: Mapping[str, Any]) -> None:
    data = json.dumps(body).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode())]
    if status == 503:
        headers.append((b"retry-after", b"1"))
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": data})
