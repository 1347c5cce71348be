"""The apiserver as the controller uses it: JSON over one aiohttp session.

Watches have connections of their own (`for_watches`): each takes one for as long as it lasts, and there is one a kind
and namespace. Of a bounded number they would leave none to a write or to the renewal of the Lease.

Kept small on purpose: importing the official client costs the operator as much memory as a thousand iterations.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

from psr_operator.api import GROUP

FIELD_MANAGER = "psr-operator"
REQUEST_SECONDS = 30.0
CONNECTIONS = 64
"""Requests at the same time, watches not counted."""
PAGE = 100
PAGE_PAUSES = (0.2, 0.4, 0.8, 1.6)
"""Seconds before a page of a list is asked for again."""
WRITING = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"}
"""A field that the apiserver does not know is an error, not something to be dropped: manifests hold free-form parts."""
WRITING_OURS = {**WRITING, "fieldValidation": "Ignore"}
"""The same for objects of our own kinds: those of the cluster may be older than this version and drop what is new."""
BODY = {"json": "application/json", "merge": "application/merge-patch+json"}


class Refused(Exception):
    """The apiserver refused a request.

    Attributes:
        code: HTTP status.
        reason: of the Status object (`AlreadyExists`, `Conflict`, `Invalid` …).
    """

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason

    @property
    def passing(self) -> bool:
        """Whether the same request may go through later."""
        return self.code in (408, 409, 429) or self.code >= 500


class Unreachable(Exception):
    """No answer from the apiserver."""


class NoCredentials(Exception):
    """Nothing says how to reach an apiserver."""


@dataclass(frozen=True)
class Connection:
    """How to reach an apiserver.

    Attributes:
        server: its base URL.
        headers: that carry the credentials; a token in them may expire.
        tls: None for a server without TLS.
        default_namespace: of the kubeconfig or service account.
    """

    server: str
    headers: Mapping[str, str]
    tls: ssl.SSLContext | None = None
    default_namespace: str | None = None


class Client:
    """Requests to one apiserver.

    Args:
        login: finds credentials; called again when they are refused.

    Attributes:
        may_write: called before every write; raises where this process must not write any more.
        on_write: called with the verb of every write.
    """

    def __init__(self, login: Callable[[], Connection]) -> None:
        self._login = login
        self.may_write: Callable[[], None] = lambda: None
        self.on_write: Callable[[str], None] = lambda _verb: None
        connection = login()
        self.server = connection.server.rstrip("/")
        self._tls = connection.tls or False
        self._headers = {**connection.headers, "User-Agent": "psr-operator"}
        self.session = self._session(CONNECTIONS)
        self.default_namespace = connection.default_namespace

    def _session(self, connections: int) -> aiohttp.ClientSession:
        """A session with connections of its own; 0 for as many as it takes."""
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=connections, ssl=self._tls),
            headers=self._headers,
            timeout=aiohttp.ClientTimeout(total=REQUEST_SECONDS),
        )

    def for_watches(self) -> aiohttp.ClientSession:
        """Another session, without a bound; whoever asks for it closes it."""
        return self._session(0)

    async def close(self) -> None:
        await self.session.close()

    def renew(self) -> None:
        """Read the credentials again: a service account's token is exchanged every hour."""
        self._headers.update(self._login().headers)
        self.session.headers.update(self._headers)

    async def get(self, path: str) -> dict[str, Any] | None:
        """An object, None where there is none."""
        try:
            return await self._request("GET", path)
        except Refused as refused:
            if refused.code == 404:
                return None
            raise

    async def items(
        self, path: str, selector: str | None = None, *, fields: str | None = None
    ) -> AsyncIterator[dict[str, Any]]:
        """Every object of a collection, page by page. `fields`: a selector of fields."""
        query = {"limit": str(PAGE), **({"labelSelector": selector} if selector else {})}
        if fields:
            query["fieldSelector"] = fields
        while True:
            page = await self._page(path, query)
            for item in page.get("items", []):
                yield item
            token = page.get("metadata", {}).get("continue")
            if not token:
                return
            query["continue"] = token

    async def _page(self, path: str, query: Mapping[str, str]) -> dict[str, Any]:
        """One page of a list. One that is refused for a moment is asked for again: the pages before it still count."""
        for pause in PAGE_PAUSES:
            try:
                return await self._request("GET", path, query=query)
            except Refused as refused:
                if not refused.passing:
                    raise
            except Unreachable:
                pass
            await asyncio.sleep(pause)
        return await self._request("GET", path, query=query)

    async def create(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """POST to a collection."""
        ours = str(body.get("apiVersion", "")).startswith(f"{GROUP}/")
        return await self._request("POST", path, body, query=WRITING_OURS if ours else WRITING)

    async def merge(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """JSON merge patch of an object of our own kinds: null removes."""
        return await self._request("PATCH", path, body, content="merge", query=WRITING_OURS)

    async def replace(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """PUT."""
        return await self._request("PUT", path, body, query=WRITING)

    async def delete(self, path: str, uid: str) -> None:
        """Delete the object of this uid, its dependents after it. One that is not there any more is no error."""
        body = {"propagationPolicy": "Background", "preconditions": {"uid": uid}}
        try:
            await self._request("DELETE", path, body)
        except Refused as refused:
            if refused.code not in (404, 409):  # 409: another object has the name by now
                raise

    async def _request(
        self,
        verb: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        content: str = "json",
        query: Mapping[str, str] | None = None,
        again: bool = True,
    ) -> dict[str, Any]:
        if verb != "GET":
            self.may_write()
            self.on_write(verb)
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": BODY[content]} if data is not None else {}
        try:
            async with self.session.request(
                verb, self.server + path, data=data, headers=headers, params=query
            ) as answer:
                text = await answer.read()
                status = answer.status
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise Unreachable(f"{verb} {path}: {type(error).__name__}: {error}") from error
        if status == 401 and again:
            self.renew()
            return await self._request(verb, path, body, content=content, query=query, again=False)
        try:
            document = json.loads(text) if text else {}
        except ValueError:
            document = {"message": text[:500].decode(errors="replace")}
        if not isinstance(document, dict):
            document = {}
        if status >= 400:
            reason, message = str(document.get("reason", "")), str(document.get("message", ""))
            raise Refused(status, reason, f"{verb} {path}: {status} {message}")
        return document
