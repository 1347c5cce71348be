"""What the controller knows: our objects as compressed JSON, and the facts of what they own.

Fed by the informer and by the answers to our own writes, whichever is newer. An object is parsed when it is read;
only the last few are kept parsed: thousands of them are known, a few are read at a time.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from sys import intern
from typing import Any, Generic, Protocol, TypeVar

from psr_operator.api import Resource
from psr_operator.api.stored import parse
from psr_operator.backends.base import OwnerLabels, PodFacts, WorkloadFacts
from psr_operator.controller.facts import DeploymentFacts
from psr_operator.controller.packed import Packed, Packer
from psr_operator.controller.workqueue import Key

Raw = Mapping[str, Any]
PARSED = 48
"""Objects that are kept parsed: a reconcile reads an object, its children and the server that it names."""
UNREAD = ("managedFields", "creationTimestamp", "selfLink", "finalizers")


@dataclass(slots=True)
class Entry:
    """One of our objects.

    Attributes:
        generation: of its spec.
        owner: uid of the object of ours that controls it, "" for none.
        names: of the PolicyServers that its spec refers to.
        ended: whether it is Ready or Stalled, so that its parent has something to decide.
        packed: the object.
        checked: generation and hash of the wanted spec that were last found to be the same; see `writer.py`.
    """

    uid: str
    version: int
    generation: int
    owner: str
    names: tuple[str, ...]
    deleting: bool
    ended: bool
    packed: Packed
    checked: tuple[int, int] = (0, 0)

    def raw(self) -> dict[str, Any]:
        """The object as the apiserver gave it, without what nobody reads."""
        return self.packed.raw()


class Facts(Protocol):
    """What an index needs of a fact."""

    @property
    def uid(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def labels(self) -> OwnerLabels: ...


F = TypeVar("F", bound=Facts)
Item = TypeVar("Item")


@dataclass
class Indexer(Generic[F]):
    """Facts by uid, and by the object of ours that they name as their owner."""

    by_uid: dict[str, F] = field(default_factory=dict)
    by_owner: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def put(self, facts: F) -> bool:
        """Take in facts; older ones than are known change nothing. Tells whether anything is new."""
        before = self.by_uid.get(facts.uid)
        if before is not None and before.version >= facts.version:
            return False
        if before is None or before.labels.uid != facts.labels.uid:
            self.drop(facts.uid)
            self.by_owner[facts.labels.uid] = (*self.by_owner.get(facts.labels.uid, ()), facts.uid)
        self.by_uid[facts.uid] = facts
        return True

    def drop(self, uid: str) -> F | None:
        """Forget what is gone; what was known of it."""
        facts = self.by_uid.pop(uid, None)
        if facts is not None:
            _without(self.by_owner, facts.labels.uid, uid)
        return facts

    def of(self, uid: str) -> list[F]:
        """Facts that name the object of this uid as their owner."""
        return [self.by_uid[item] for item in self.by_owner.get(uid, ())]


class Store:
    """Everything that is known."""

    def __init__(self) -> None:
        self._entries: dict[Key, Entry] = {}
        self._children: dict[str, tuple[Key, ...]] = {}
        self._readers: dict[tuple[str, str], set[Key]] = defaultdict(set)
        self._keys: dict[str, Key] = {}
        self._packer = Packer()
        self._parsed: OrderedDict[str, tuple[int, Resource]] = OrderedDict()
        self.workloads: Indexer[WorkloadFacts] = Indexer()
        self.pods: Indexer[PodFacts] = Indexer()
        self.deployments: Indexer[DeploymentFacts] = Indexer()

    # --- our objects

    def put(self, raw: Raw) -> Entry | None:
        """Take in an object of ours. None where something newer is known already."""
        meta = raw["metadata"]
        key = key_of(raw)
        before = self._entries.get(key)
        version = int(meta["resourceVersion"])
        if before is not None and before.uid == meta["uid"] and before.version >= version:
            return None
        kept = {**raw, "metadata": {name: value for name, value in meta.items() if name not in UNREAD}}
        owners = [item for item in meta.get("ownerReferences") or () if item.get("controller")]
        entry = Entry(
            uid=intern(meta["uid"]),
            version=version,
            generation=int(meta.get("generation", 0)),
            owner=intern(owners[0]["uid"]) if owners else "",
            names=_servers_named(raw),
            deleting="deletionTimestamp" in meta,
            ended=_ended(raw),
            packed=self._packer.pack(key.kind, kept),
            checked=before.checked if before is not None and before.uid == meta["uid"] else (0, 0),
        )
        if before is not None:
            self._unlink(key, before)
        self._entries[key] = entry
        self._keys[entry.uid] = key
        if entry.owner:
            self._children[entry.owner] = (*self._children.get(entry.owner, ()), key)
        for name in entry.names:
            self._readers[(key.namespace, name)].add(key)
        return entry

    def drop(self, key: Key, uid: str | None = None) -> Entry | None:
        """Forget an object (of this uid, where one is given); what was known of it."""
        entry = self._entries.get(key)
        if entry is None or uid not in (None, entry.uid):
            return None
        del self._entries[key]
        self._unlink(key, entry)
        return entry

    def get(self, key: Key) -> Entry | None:
        return self._entries.get(key)

    def resource(self, key: Key) -> Resource | None:
        """An object as its model; None where there is none, or it is being deleted.

        Raises:
            pydantic.ValidationError: the model refuses it.
        """
        entry = self._entries.get(key)
        if entry is None or entry.deleting:
            return None
        version, resource = self._parsed.get(entry.uid, (0, None))
        if resource is None or version != entry.version:
            resource = parse(entry.raw())
            self._parsed[entry.uid] = (entry.version, resource)
        self._parsed.move_to_end(entry.uid)
        while len(self._parsed) > PARSED:
            self._parsed.popitem(last=False)
        return resource

    def of_kind(self, kind: str) -> set[Key]:
        """The objects of a kind."""
        return {key for key in self._entries if key.kind == kind}

    def key_of_uid(self, uid: str) -> Key | None:
        """The key of the object with this uid."""
        return self._keys.get(uid)

    def keys(self, namespace: str | None = None) -> set[Key]:
        """The objects of a namespace, or all of them."""
        return {key for key in self._entries if namespace in (None, key.namespace)}

    def uids(self, namespace: str | None = None) -> Iterator[str]:
        """Of everything that is known in a namespace, or at all."""
        yield from (uid for uid, key in self._keys.items() if namespace in (None, key.namespace))
        for index in (self.workloads, self.pods, self.deployments):
            yield from (uid for uid, facts in index.by_uid.items() if namespace in (None, facts.labels.namespace))

    def children(self, uid: str) -> Iterator[Key]:
        """The objects that the object of this uid controls."""
        yield from sorted(self._children.get(uid, ()))

    def readers(self, namespace: str, server: str) -> Iterable[Key]:
        """Objects whose spec names this PolicyServer."""
        return tuple(self._readers.get((namespace, server), ()))

    def _unlink(self, key: Key, entry: Entry) -> None:
        self._keys.pop(entry.uid, None)
        _without(self._children, entry.owner, key)
        for name in entry.names:
            readers = self._readers[(key.namespace, name)]
            readers.discard(key)
            if not readers:
                del self._readers[(key.namespace, name)]

    # --- what they own

    def workloads_of(self, uid: str) -> list[WorkloadFacts]:
        """The objects that stand for the Workloads of the object of this uid: those that it controls itself."""
        return [facts for facts in self.workloads.of(uid) if facts.owner == uid]

    def workload_of(self, pod: PodFacts) -> WorkloadFacts | None:
        """The object that stands for the Workload of a pod; None where the chain of owners does not lead to one, or it
        is not known (any more)."""
        facts = self.workloads.by_uid.get(pod.owner)
        while facts is not None and facts.owner != facts.labels.uid:
            facts = self.workloads.by_uid.get(facts.owner)
        return facts if facts is not None and facts.labels.uid == pod.labels.uid else None

    def deployment_of(self, uid: str) -> DeploymentFacts | None:
        """The Deployment of the server of this uid."""
        return next((facts for facts in self.deployments.of(uid) if facts.owner == uid), None)


def key_of(raw: Raw) -> Key:
    """The key of an object of ours."""
    meta = raw["metadata"]
    return Key(intern(raw["kind"]), intern(meta.get("namespace", "")), intern(meta["name"]))


def _without(index: dict[str, tuple[Item, ...]], name: str, item: Item) -> None:
    """Take an item out of an index. Its values are tuples: most are of one or two, and an empty set takes 216 bytes."""
    left = tuple(other for other in index.pop(name, ()) if other != item)
    if left:
        index[name] = left


def _ended(raw: Raw) -> bool:
    conditions = (raw.get("status") or {}).get("conditions") or ()
    return any(item.get("type") in ("Ready", "Stalled") and item.get("status") == "True" for item in conditions)


def _servers_named(raw: Raw) -> tuple[str, ...]:
    spec = raw.get("spec") or {}
    server = spec.get("server")
    named = server.get("ref") if isinstance(server, Mapping) else None
    return tuple(sorted({intern(str(name)) for name in (named, spec.get("afterRelease")) if name}))
