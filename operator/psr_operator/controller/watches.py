"""kopf's side: every event goes to the cache and puts a key into the queue; nothing is decided here.

Before kopf begins, everything is listed once, page by page: a planner that does not see a Job yet would make it again.
kopf's own barrier for that, an index, would hold every object and a task for each of them until the last one is listed:
40 KB an object. Then there is an event handler for each watched kind, which leaves no annotation or finalizer on
anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import kopf
from kopf._core.reactor.inventory import ResourceMemories, ResourceMemory

from psr_operator.api import GROUP, PLURALS, VERSION
from psr_operator.controller.apply import collection_of
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
        untold: uids of what was listed before kopf began and no event has told of yet. kopf lists again, so in the end
            only those are left that went in between.
    """

    client: Client
    cache: Cache
    queue: Queue
    asker: Asker
    untold: set[str] = field(default_factory=set)

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
        @kopf.on.event(GROUP, VERSION, plural, id=f"{kind}-event", registry=registry)
        async def event(body: kopf.Body, type: str | None, **_: Any) -> None:
            self.ours(_raw(body, kind), gone=type == "DELETED")

    def _watch_foreign(
        self, registry: kopf.OperatorRegistry, kind: str, resource: tuple[str, ...], facts_of: Callable[..., Any]
    ) -> None:
        @kopf.on.event(*resource, id=f"{kind}-event", registry=registry)
        async def event(body: kopf.Body, type: str | None, **_: Any) -> None:
            self.foreign(kind, facts_of(body), gone=type == "DELETED", listed=type is None)

    # --- what an event leads to

    def ours(self, raw: Mapping[str, Any], *, gone: bool) -> None:
        """An object of ours was listed, changed, or is gone."""
        key, uid = key_of(raw), raw["metadata"]["uid"]
        self.untold.discard(uid)
        if gone:
            entry = self.cache.drop(key, uid)
            self.queue.forget(key)
            if entry is not None:
                self.noted(key, entry, itself=False)
            return
        entry = self.cache.put(raw)
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

    def foreign(self, kind: str, facts: Any, *, gone: bool, listed: bool = False) -> None:
        """A Job, Deployment or pod was listed, changed, or is gone."""
        if facts is None:
            return
        self.untold.discard(facts.uid)
        shelf = self.cache.shelf(kind)
        if gone:
            shelf.drop(facts.uid)
            self._forget(kind, facts)
        else:
            if not shelf.put(facts) and listed:
                return
            if kind == "Pod" and facts.server and not facts.ready:
                self.asker.ask_soon(facts.belongs.uid)
        self._look_at(facts.belongs, SETTLE_SECONDS if gone or _decides(facts, self.cache.jobs) else UNDER_WAY_SECONDS)

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

    async def list_everything(self, namespaces: list[str | None]) -> None:
        """Take in what exists, before kopf begins. Arguments: see `look_for_vanished`."""
        await self.look_for_vanished(namespaces)
        self.untold = set(self.cache.uids())

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
                    self.ours({**raw, "kind": kind}, gone=False)
                    found.add(key_of({**raw, "kind": kind}))
            for key in before - found:
                entry = self.cache.drop(key)
                if entry is not None:
                    count += 1
                    self.untold.discard(entry.uid)
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


class NoMemories(ResourceMemories):
    """kopf's notes of an object (memo, daemons, retries) end with the event. Nothing here uses them, and kept for each
    object they take as much memory as the cache."""

    async def recall(self, raw_body: Any, **given: Any) -> ResourceMemory:
        return await super().recall(raw_body, **{**given, "ephemeral": True})


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
    settings.watching.chunk_size = 100
    settings.persistence.diffbase_storage = NoDiff()
    settings.queueing.idle_timeout = 0.1
    for resource, _ in FOREIGN.values():
        settings.watching.label_selectors[resource[-1] if resource[0] == "v1" else f"{resource[0]}/{resource[-1]}"] = (
            SELECTOR
        )
    return settings
