"""kopf's side: every event goes to the cache and puts a key into the queue; nothing is decided here.

For each watched kind there is an index and an event handler. kopf calls no event handler before every kind is listed
and indexed, so the first key comes when everything that exists is known: a planner that does not see a Job yet would
make it again. Neither leaves an annotation or a finalizer on anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import kopf

from psr_operator.api import GROUP, VERSION
from psr_operator.controller.apply import PLURALS, collection_of
from psr_operator.controller.ask import Asker
from psr_operator.controller.cache import Cache, Entry, Shelf, key_of
from psr_operator.controller.client import Client
from psr_operator.controller.facts import (
    Belongs,
    DeploymentFacts,
    JobFacts,
    PodFacts,
    deployment_facts,
    job_facts,
    pod_facts,
)
from psr_operator.controller.queue import Key, Queue
from psr_operator.render import LABEL_MANAGED_BY, MANAGED_BY

SELECTOR = f"{LABEL_MANAGED_BY}={MANAGED_BY}"
FOREIGN: dict[str, tuple[tuple[str, ...], Callable[[Mapping[str, Any]], Any]]] = {
    "Job": (("batch", "v1", "jobs"), job_facts),
    "Deployment": (("apps", "v1", "deployments"), deployment_facts),
    "Pod": (("v1", "pods"), pod_facts),
}
SETTLE_SECONDS = 0.02
"""A key waits this long, so that events that come together are one look."""
UNDER_WAY_SECONDS = 1.0
"""The same where nothing has to be decided, only told: a child, Job or pod is under way. What is over before that is
never written down as begun."""


@dataclass
class Watches:
    """What happens with events.

    Attributes:
        ready: told once everything that exists is known.
    """

    client: Client
    cache: Cache
    queue: Queue
    asker: Asker
    ready: Callable[[], None] = lambda: None
    _open: bool = False
    _unseen: set[str] = field(default_factory=set)

    def register(self, registry: kopf.OperatorRegistry, login: Callable[[], kopf.AiohttpSession]) -> None:
        """Tell kopf what to watch."""

        @kopf.on.login(registry=registry)
        def log_in(**_: Any) -> kopf.AiohttpSession:
            return login()

        for kind, plural in PLURALS.items():
            self._watch_ours(registry, kind, plural)
        for kind, (resource, facts_of) in FOREIGN.items():
            self._watch_foreign(registry, kind, resource, facts_of)

    def _watch_ours(self, registry: kopf.OperatorRegistry, kind: str, plural: str) -> None:
        @kopf.index(GROUP, VERSION, plural, id=f"{kind}-known", registry=registry)
        async def known(body: kopf.Body, **_: Any) -> None:
            if not self._open:  # afterwards the event handler must find out what is new
                self.cache.put(_raw(body, kind))
                self._unseen.add(body["metadata"]["uid"])

        @kopf.on.event(GROUP, VERSION, plural, id=f"{kind}-event", registry=registry)
        async def event(body: kopf.Body, type: str | None, **_: Any) -> None:
            raw = _raw(body, kind)
            self.ours(raw, gone=type == "DELETED", listed=type is None)

    def _watch_foreign(
        self, registry: kopf.OperatorRegistry, kind: str, resource: tuple[str, ...], facts_of: Callable[..., Any]
    ) -> None:
        @kopf.index(*resource, id=f"{kind}-known", registry=registry)
        async def known(body: kopf.Body, **_: Any) -> None:
            facts = facts_of(body)
            if facts is not None:
                self.cache.shelf(kind).put(facts)

        @kopf.on.event(*resource, id=f"{kind}-event", registry=registry)
        async def event(body: kopf.Body, type: str | None, **_: Any) -> None:
            self.foreign(kind, facts_of(body), gone=type == "DELETED")

    # --- what an event leads to

    def ours(self, raw: Mapping[str, Any], *, gone: bool, listed: bool) -> None:
        """An object of ours was listed, changed, or is gone."""
        self._opened()
        key, uid = key_of(raw), raw["metadata"]["uid"]
        listed |= uid in self._unseen
        self._unseen.discard(uid)
        if gone:
            entry = self.cache.drop(key, uid)
            self.queue.forget(key)
            if entry is not None:
                self.noted(key, entry, itself=False)
            return
        entry = self.cache.put(raw) or (self.cache.get(key) if listed else None)
        if entry is not None:
            self.noted(key, entry)

    def noted(self, key: Key, entry: Entry, itself: bool = True) -> None:
        """Have those looked at that a change concerns: the object itself, its parent, whoever names a server."""
        if itself:
            self.queue.add(key, SETTLE_SECONDS)
        parent = self.cache.key_of_uid(entry.owner) if entry.owner else None
        if parent is not None:
            self.queue.add(parent, SETTLE_SECONDS if entry.ended or entry.deleting else UNDER_WAY_SECONDS)
        if key.kind == "PolicyServer":
            for reader in self.cache.readers(key.namespace, key.name):
                self.queue.add(reader, SETTLE_SECONDS)

    def foreign(self, kind: str, facts: Any, *, gone: bool) -> None:
        """A Job, Deployment or pod was listed, changed, or is gone."""
        self._opened()
        if facts is None:
            return
        shelf = self.cache.shelf(kind)
        if gone:
            shelf.drop(facts.uid)
            self._forget(kind, facts)
        else:
            shelf.put(facts)
            if kind == "Pod" and facts.server and not facts.ready:
                self.asker.ask_soon(facts.belongs.uid)
        self._look_at(facts.belongs, SETTLE_SECONDS if gone or _decides(facts, self.cache.jobs) else UNDER_WAY_SECONDS)

    def _opened(self) -> None:
        """kopf calls its event handlers: everything that exists is known."""
        self._open = True
        self.ready()

    def _look_at(self, belongs: Belongs, after: float = SETTLE_SECONDS) -> None:
        key = self.cache.key_of_uid(belongs.uid)
        if key is not None:
            self.queue.add(key, after)

    def _forget(self, kind: str, facts: Any) -> None:
        if kind == "Pod":
            self.asker.forget(facts.uid)
        elif kind == "Job":
            self.asker.forget_workload(facts.owner, facts.name)
        else:
            self.asker.forget_server(facts.belongs.namespace, facts.name)

    async def look_for_vanished(self, namespaces: list[str | None]) -> int:
        """Compare what is known with lists of everything: a watch that begins anew never tells what went meanwhile.

        Args:
            namespaces: that are watched; [None] for all.

        Returns:
            How many objects were gone.
        """
        count = 0
        for kind in PLURALS:
            before = self.cache.of_kind(kind)
            found = set()
            for namespace in namespaces:
                async for raw in self.client.items(collection_of(kind, namespace)):
                    self.ours({**raw, "kind": kind}, gone=False, listed=False)
                    found.add(key_of({**raw, "kind": kind}))
            for key in before - found:
                entry = self.cache.drop(key)
                if entry is not None:
                    count += 1
                    self.queue.forget(key)
                    self.noted(key, entry, itself=False)
        for kind, (_, facts_of) in FOREIGN.items():
            shelf = self.cache.shelf(kind)
            known = set(shelf.by_uid)
            seen = set()
            for namespace in namespaces:
                async for raw in self.client.items(collection_of(kind, namespace), SELECTOR):
                    facts = facts_of(raw)
                    if facts is None:
                        continue
                    seen.add(facts.uid)
                    if shelf.put(facts):
                        self._look_at(facts.belongs)
            for uid in known - seen:
                facts = shelf.by_uid.get(uid)
                if facts is not None:
                    count += 1
                    self.foreign(kind, facts, gone=True)
        return count


def _decides(facts: JobFacts | PodFacts | DeploymentFacts, jobs: Shelf) -> bool:
    """Whether something can be decided now that such a fact is known."""
    match facts:
        case JobFacts():
            return facts.ended is not None
        case PodFacts():
            job = jobs.by_uid.get(facts.owner)  # while that has not ended, it has the say
            return facts.server or (facts.over and (job is None or job.ended is not None))
    return True


def _raw(body: kopf.Body, kind: str) -> dict[str, Any]:
    return {**dict(body), "kind": kind, "metadata": dict(body["metadata"])}


class NoDiff(kopf.DiffBaseStorage):
    """kopf's change handlers are not used: nothing is compared with what was handled last, and nothing is noted."""

    def build(self, **_: Any) -> Any:
        return {}

    def fetch(self, **_: Any) -> Any:
        return None

    def store(self, **_: Any) -> None:
        """Nothing to note."""


def settings_for_watching() -> kopf.OperatorSettings:
    """kopf's settings: no events, no peering, no annotations; streams that end in time."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.posting.loggers = False
    settings.peering.standalone = True
    settings.scanning.disabled = True
    settings.networking.request_timeout = 8
    settings.watching.server_timeout = 600
    settings.watching.client_timeout = 660
    settings.watching.chunk_size = 500
    settings.persistence.diffbase_storage = NoDiff()
    settings.queueing.idle_timeout = 0.5
    for resource, _ in FOREIGN.values():
        settings.watching.label_selectors[resource[-1] if resource[0] == "v1" else f"{resource[0]}/{resource[-1]}"] = (
            SELECTOR
        )
    return settings
