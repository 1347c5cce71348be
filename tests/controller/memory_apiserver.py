"""A client whose apiserver is a dictionary: it answers as the real one does, and refuses what a test wants refused."""

from __future__ import annotations

import copy
import itertools
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from psr_operator.controller.client import Refused

Object = dict[str, Any]


@dataclass
class Request:
    """One request that was made, reads included."""

    verb: str
    path: str
    body: Any = None


@dataclass
class MemoryClient:
    """What `controller.client.Client` offers, without an apiserver.

    Attributes:
        objects: by path.
        requests: in order.
        before: called with each request; raises what the test wants to be raised.
        dropped: places of fields that the stored kinds do not know.
    """

    objects: dict[str, Object] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    before: Callable[[Request], None] = lambda _request: None
    dropped: set[tuple[str, ...]] = field(default_factory=set)
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    # --- for the test

    def writes(self) -> list[str]:
        """Verb and path of each write that was tried."""
        return [f"{item.verb} {item.path}" for item in self.requests if item.verb != "GET"]

    def put(self, path: str, body: Mapping[str, Any]) -> Object:
        """An object as somebody else writes it."""
        known = self.objects.get(path)
        raw: Object = copy.deepcopy(dict(body))
        meta = raw["metadata"]
        meta["uid"] = known["metadata"]["uid"] if known is not None else meta.get("uid") or f"uid-{next(self._numbers)}"
        meta["resourceVersion"] = str(next(self._numbers))
        generation = known["metadata"]["generation"] if known is not None else 0
        same = known is not None and known.get("spec") == raw.get("spec")
        meta["generation"] = generation if same else generation + 1
        self.objects[path] = raw
        return copy.deepcopy(raw)

    # --- what a client does

    async def get(self, path: str) -> Object | None:
        self._request("GET", path)
        return copy.deepcopy(self.objects.get(path))

    async def items(
        self, path: str, selector: str | None = None, *, fields: str | None = None
    ) -> AsyncIterator[Object]:
        self._request("GET", f"{path}?{fields}" if fields else path)
        key, _, value = (selector or "").partition("=")
        for place, raw in sorted(self.objects.items()):
            if place.rpartition("/")[0] == path and (not key or raw["metadata"].get("labels", {}).get(key) == value):
                yield copy.deepcopy(raw)

    async def create(self, path: str, body: Mapping[str, Any]) -> Object:
        self._request("POST", path, body)
        collection, dry = path.removesuffix("?dryRun=All"), path.endswith("?dryRun=All")
        place = f"{collection}/{body['metadata']['name']}"
        if place in self.objects:
            raise Refused(409, "AlreadyExists", f"{place} already exists")
        return copy.deepcopy(dict(body)) if dry else self.put(place, body)

    async def replace(self, path: str, body: Mapping[str, Any]) -> Object:
        self._request("PUT", path, body)
        self._check(path, body["metadata"])
        return self.put(path, body)

    async def merge(self, path: str, body: Mapping[str, Any]) -> Object:
        self._request("PATCH", path, body)
        place = path.removesuffix("/status")
        self._check(place, body["metadata"])
        part = "status" if path.endswith("/status") else "spec"
        known = self.objects[place]
        whole = {**known, part: merged(known.get(part, {}), body.get(part, {}))}
        for *way, last in self.dropped:
            node: Any = whole
            for step in way:
                node = node.get(step, {})
            node.pop(last, None)
        if whole == known:
            return copy.deepcopy(known)  # nothing has changed: no new version
        return self.put(place, whole)

    async def delete(self, path: str, uid: str) -> None:
        self._request("DELETE", path, uid)
        if path in self.objects and self.objects[path]["metadata"]["uid"] == uid:
            del self.objects[path]

    def _request(self, verb: str, path: str, body: Any = None) -> None:
        request = Request(verb, path, copy.deepcopy(body))
        self.requests.append(request)
        self.before(request)

    def _check(self, path: str, meta: Mapping[str, Any]) -> None:
        if path not in self.objects:
            raise Refused(404, "NotFound", f"{path} not found")
        known = self.objects[path]["metadata"]
        for name in ("uid", "resourceVersion"):
            if name in meta and meta[name] != known[name]:
                raise Refused(409, "Conflict", f"{path}: {name} {meta[name]} is not {known[name]}")


def merged(base: Mapping[str, Any], patch: Mapping[str, Any]) -> Object:
    """RFC 7386."""
    result = dict(base)
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Mapping):
            before = result.get(key)
            result[key] = merged(before if isinstance(before, Mapping) else {}, value)
        else:
            result[key] = copy.deepcopy(value)
    return result


def refuse(code: int, reason: str = "", *, verb: str, part: str, times: int = 1000) -> Callable[[Request], None]:
    """A `before` that refuses requests of a verb whose path holds this part."""
    left = itertools.count(1)

    def before(request: Request) -> None:
        if request.verb == verb and part in request.path and next(left) <= times:
            raise Refused(code, reason, f"{verb} {request.path}: {code} {reason}")

    return before
