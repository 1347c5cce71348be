"""What events lead to: they change the store and put keys into the queue; nothing is decided here.

Before a namespace is watched, everything in it is listed once, page by page: a planner that does not see a Workload yet
would make it again. A watch that begins anew never tells what went meanwhile, so what is known is compared with lists
of everything from time to time. Who lists and watches when is in `namespaces.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from psr_operator.api import KINDS
from psr_operator.backends.base import Backend, ObjectKind, OwnerLabels, PodFacts, WorkloadFacts
from psr_operator.controller.client import Client
from psr_operator.controller.facts import DeploymentFacts, deployment_facts, pod_facts
from psr_operator.controller.paths import collection_of, group_version
from psr_operator.controller.prober import Prober
from psr_operator.controller.store import Entry, Indexer, Store, key_of
from psr_operator.controller.workqueue import Key, WorkQueue

log = logging.getLogger(__name__)

SETTLE_SECONDS = 0.02
"""A key waits this long, so that events that come together are one reconciliation."""
UNDER_WAY_SECONDS = 1.0
"""The same where nothing has to be decided, only reported: a child, Workload or pod is under way. What ends before that
is never written down as begun."""

DEPLOYMENT = ObjectKind("apps/v1", "Deployment", "deployments", verbs=("get", "list", "watch", "create", "update"))
POD = ObjectKind("v1", "Pod", "pods", verbs=("list", "watch"))

Raw = Mapping[str, Any]


@dataclass(frozen=True)
class Dependents:
    """A kind of objects that ours own, and where its facts go.

    Attributes:
        facts_of: reads an object; None for one that is not ours.
        index: of all facts of this sort; the back ends share one.
        backend: that watches this kind, None for the controller itself.
    """

    kind: ObjectKind
    facts_of: Callable[[Raw], Any]
    index: Indexer[Any]
    backend: Backend[Any] | None = None

    def known(self, namespace: str | None = None) -> set[str]:
        """uids of the objects of this kind that are known, of one namespace or of all."""
        return {
            uid
            for uid, facts in self.index.by_uid.items()
            if namespace in (None, facts.labels.namespace)
            if self.backend is None or (facts.backend is self.backend and facts.kind == self.kind)
        }


@dataclass
class Informer:
    """Takes in what was listed or watched.

    Attributes:
        unconfirmed: uids of what was listed before the watches began and no event has spoken of yet. Each watch lists
            again, so in the end only those are left that went in between.
        backends: whose kinds are watched.
        listed: namespaces that were listed (None: all), so that what is not known there does not exist.
    """

    client: Client
    store: Store
    queue: WorkQueue
    prober: Prober
    backends: Sequence[Backend[Any]]
    unconfirmed: set[str] = field(default_factory=set)
    listed: set[str | None] = field(default_factory=set)
    _unreadable: set[str] = field(default_factory=set)

    def dependents(self) -> Iterator[Dependents]:
        """What is watched beside our own kinds: the kinds of the back ends, Deployments and pods."""
        for backend in self.backends:
            for kind in backend.kinds:
                yield Dependents(kind, backend.facts, self.store.workloads, backend)
        yield Dependents(DEPLOYMENT, deployment_facts, self.store.deployments)
        yield Dependents(POD, pod_facts, self.store.pods)

    # --- our own objects

    def own(self, raw: Raw, *, gone: bool) -> None:
        """An object of ours was listed, changed, or is gone."""
        key, uid = key_of(raw), raw["metadata"]["uid"]
        self.unconfirmed.discard(uid)
        if gone:
            entry = self.store.drop(key, uid)
            self.queue.forget(key)
            if entry is not None:
                self.changed(key, entry, itself=False)
            return
        entry = self.store.put(raw)
        if entry is not None:
            self.changed(key, entry)

    def changed(self, key: Key, entry: Entry, itself: bool = True) -> None:
        """Have those reconciled whom a change concerns: the object itself, its parent, whoever names a server."""
        if itself:
            self.queue.add(key, SETTLE_SECONDS)
        parent = self.store.key_of_uid(entry.owner) if entry.owner else None
        if parent is not None:
            self.queue.add(parent, SETTLE_SECONDS if entry.ended or entry.deleting else UNDER_WAY_SECONDS)
        if key.kind == "PolicyServer":
            for reader in self.store.readers(key.namespace, key.name):
                self.queue.add(reader, SETTLE_SECONDS)

    # --- what they own

    def dependent(self, of: Dependents, raw: Raw, *, gone: bool, listed: bool = False) -> None:
        """An object that one of ours owns was listed, changed, or is gone."""
        facts = self._facts(of, raw)
        if facts is None:
            return
        self.unconfirmed.discard(facts.uid)
        if gone:
            self._drop(of, facts)
            return
        if not of.index.put(facts) and listed:
            return
        if isinstance(facts, PodFacts) and facts.server and not facts.ready:
            self.prober.ask_soon(facts.labels.uid)
        self._reconcile_owner(facts.labels, SETTLE_SECONDS if self._decides(facts) else UNDER_WAY_SECONDS)

    def _facts(self, of: Dependents, raw: Raw) -> Any:
        """The facts of an object. One that cannot be read is said once and left out: it must not stop the others."""
        try:
            return of.facts_of(raw)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            meta = raw["metadata"]
            if meta["uid"] not in self._unreadable:
                self._unreadable.add(meta["uid"])
                log.warning("%s %s/%s is left out: %r", of.kind.kind, meta.get("namespace"), meta["name"], error)
            return None

    def _drop(self, of: Dependents, facts: WorkloadFacts | PodFacts | DeploymentFacts) -> None:
        of.index.drop(facts.uid)
        match facts:
            case PodFacts():
                self.prober.forget_pod(facts.uid)
            case DeploymentFacts():
                self.prober.forget_server(facts.labels.namespace, facts.name)
            case WorkloadFacts():
                self.prober.forget_workload(facts.owner, facts.name)
        self._reconcile_owner(facts.labels, SETTLE_SECONDS)

    def _reconcile_owner(self, labels: OwnerLabels, after: float) -> None:
        key = self.store.key_of_uid(labels.uid)
        if key is not None:
            self.queue.add(key, after)

    def _decides(self, facts: WorkloadFacts | PodFacts | DeploymentFacts) -> bool:
        """Whether something can be decided now that such a fact is known."""
        match facts:
            case WorkloadFacts():
                return facts.ended
            case PodFacts():
                workload = self.store.workloads.by_uid.get(facts.owner)  # while that has not ended, it has the say
                return facts.server or (facts.finished and (workload is None or workload.ended))
        return True

    # --- lists of everything

    async def find_backends(self) -> None:
        """Leave out the back ends whose kinds this cluster does not have."""
        self.backends = [backend for backend in self.backends if await self._is_served(backend)]

    async def _is_served(self, backend: Backend[Any]) -> bool:
        """Whether the apiserver knows the kinds of a back end."""
        for kind in backend.kinds:
            known = await self.client.get(group_version(kind.api_version)) or {}
            if kind.plural not in {item["name"] for item in known.get("resources", ())}:
                log.info("%s of %s are not served here; their back end is off", kind.plural, kind.api_version)
                return False
        return True

    async def take_in(self, namespace: str | None) -> None:
        """Take in what exists in a namespace (None: everywhere), before its watches begin.

        Raises:
            Refused, Unreachable: it cannot be listed now; nothing of it is looked at before it was.
        """
        self.listed.discard(namespace)
        await self.find_vanished(namespace)
        self.unconfirmed |= set(self.store.uids(namespace))
        self.listed.add(namespace)

    def knows(self, namespace: str) -> bool:
        """Whether a namespace was listed, so that what is not known in it is not there."""
        return None in self.listed or namespace in self.listed

    def forget(self, namespace: str | None) -> None:
        """Forget a namespace that does not answer any more: what is known of it may be old."""
        self.listed.discard(namespace)
        for uid in list(self.store.uids(namespace)):
            self.unconfirmed.discard(uid)
        for key in self.store.keys(namespace):
            self.store.drop(key)
            self.queue.forget(key)
        for of in self.dependents():
            for uid in of.known(namespace):
                self._drop(of, of.index.by_uid[uid])

    async def find_vanished(self, namespace: str | None) -> int:
        """Compare what is known of a namespace (None: everywhere) with lists of everything.

        Returns:
            How many objects were gone.

        Raises:
            Refused, Unreachable: a list was refused; what had been compared before stays so.
        """
        vanished = 0
        for kind in KINDS:
            vanished += await self._compare_own(kind, namespace)
        for of in self.dependents():
            vanished += await self._compare_dependents(of, namespace)
        return vanished

    async def _compare_own(self, kind: str, namespace: str | None) -> int:
        before = {key for key in self.store.keys(namespace) if key.kind == kind}
        listed = set()
        async for item in self.client.items(collection_of(kind, namespace)):
            raw = {**item, "kind": kind}
            self.own(raw, gone=False)
            listed.add(key_of(raw))
        vanished = 0
        for key in before - listed:
            entry = self.store.drop(key)
            if entry is not None:
                vanished += 1
                self.unconfirmed.discard(entry.uid)
                self.queue.forget(key)
                self.changed(key, entry, itself=False)
        return vanished

    async def _compare_dependents(self, of: Dependents, namespace: str | None) -> int:
        before = of.known(namespace)
        listed = set()
        async for raw in self.client.items(collection_of(of.kind, namespace), of.kind.selector):
            facts = self._facts(of, raw)
            if facts is None:
                continue
            listed.add(facts.uid)
            if of.index.put(facts):
                self._reconcile_owner(facts.labels, SETTLE_SECONDS)
        vanished = 0
        for uid in before - listed:
            facts = of.index.by_uid.get(uid)
            if facts is not None:
                vanished += 1
                self.unconfirmed.discard(uid)
                self._drop(of, facts)
        return vanished
