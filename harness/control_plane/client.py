"""A small asynchronous client for tests: JSON requests and watches that list again by themselves.

One aiohttp session with a bounded number of connections; no retries of refused requests, no caches beyond what a watch
needs to tell what vanished.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Any

import aiohttp

from harness.control_plane.plane import APIError, ControlPlane

PAGE = 500
RECONNECTIONS = 25
PAUSE_SECONDS = 0.2
Tell = Callable[[str, dict[str, Any]], None]


class Client:
    """Requests to an apiserver, while it is entered.

    Args:
        plane: whose apiserver.
        token: who asks.
        connections: requests at the same time.
    """

    def __init__(self, plane: ControlPlane, token: str | None = None, connections: int = 32) -> None:
        self._url = plane.url
        self._ca = str(plane.ca)
        self._token = token or plane.token
        self._connections = connections
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> Client:
        context = ssl.create_default_context(cafile=self._ca)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=context),
            headers={"Authorization": f"Bearer {self._token}"},
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=10),
        )
        self._free = asyncio.Semaphore(self._connections)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def request(self, verb: str, path: str, body: Any = None, *, content: str = "application/json") -> Any:
        """One request; the answer's JSON. A lost connection is tried again, a refusal is not.

        Raises:
            APIError: the answer is no success.
            aiohttp.ClientError: there is no connection to be had.
        """
        data = None if body is None else json.dumps(body)
        headers = {"Content-Type": content} if data is not None else {}
        for attempt in range(RECONNECTIONS):
            try:
                async with (
                    self._free,
                    self._session.request(verb, self._url + path, data=data, headers=headers) as answer,
                ):
                    text = await answer.read()
                    if answer.status >= 400:
                        raise APIError(answer.status, _status(text), f"{verb} {path}")
                    return json.loads(text)
            except aiohttp.ClientError:
                if attempt + 1 == RECONNECTIONS:
                    raise
                await asyncio.sleep(PAUSE_SECONDS)
        raise AssertionError

    async def merge(self, path: str, body: Any) -> Any:
        """A merge patch."""
        return await self.request("PATCH", path, body, content="application/merge-patch+json")

    async def watch(self, path: str, tell: Tell, listed: Callable[[], None], selector: str = "") -> None:
        """Tell of every object of a collection and of every change, until cancelled.

        Args:
            path: of the collection.
            tell: called with ADDED, MODIFIED or DELETED and the object; what vanished between two lists is DELETED.
            listed: called after every list.
            selector: label selector.
        """
        known: dict[str, dict[str, Any]] = {}
        base = f"{path}?labelSelector={selector}" if selector else f"{path}?"
        while True:
            version: str | None = await self._list(base, known, tell)
            listed()
            while version is not None:
                try:
                    version = await self._follow(base, version, known, tell)
                except aiohttp.ClientError:
                    await asyncio.sleep(PAUSE_SECONDS)

    async def _list(self, base: str, known: dict[str, dict[str, Any]], tell: Tell) -> str:
        items: dict[str, dict[str, Any]] = {}
        following = ""
        while True:
            answer = await self.request("GET", f"{base}&limit={PAGE}&continue={following}")
            items |= {item["metadata"]["uid"]: item for item in answer["items"]}
            following = answer["metadata"].get("continue", "")
            if not following:
                break
        for uid in [uid for uid in known if uid not in items]:
            tell("DELETED", known.pop(uid))
        for uid, item in items.items():
            tell("MODIFIED" if uid in known else "ADDED", item)
            known[uid] = item
        version: str = answer["metadata"]["resourceVersion"]
        return version

    async def _follow(self, base: str, version: str, known: dict[str, dict[str, Any]], tell: Tell) -> str | None:
        """One watch request; the version to go on from, None where it is too old."""
        address = f"{self._url}{base}&watch=1&allowWatchBookmarks=1&timeoutSeconds=600&resourceVersion={version}"
        async with self._session.get(address) as answer:
            if answer.status == 410:
                return None
            if answer.status >= 400:
                raise APIError(answer.status, _status(await answer.read()), f"WATCH {base}")
            async for line in _lines(answer.content):
                event = json.loads(line)
                item, kind = event["object"], event["type"]
                if kind == "ERROR":
                    if item.get("code") == 410:
                        return None
                    raise APIError(item.get("code", 500), item, f"WATCH {base}")
                version = item["metadata"]["resourceVersion"]
                if kind == "BOOKMARK":
                    continue
                if kind == "DELETED":
                    known.pop(item["metadata"]["uid"], None)
                else:
                    known[item["metadata"]["uid"]] = item
                tell(kind, item)
        return version


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Lines of any length."""
    rest = b""
    async for chunk in content.iter_any():
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line


def _status(text: bytes) -> dict[str, Any]:
    try:
        status = json.loads(text)
    except ValueError:
        return {"message": text.decode(errors="replace")}
    return status if isinstance(status, dict) else {"message": str(status)}
