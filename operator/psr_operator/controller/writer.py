"""Every write of the controller, with its guards. Those of servers are in `server_writer.py`.

| what | how |
| --- | --- |
| create | POST; the name taken → live GET → ours by the owner's uid, else `NameCollision` |
| our children's specs | JSON merge patch of what differs, with uid and resourceVersion; a field no longer set goes |
| a server's objects | replaced as a whole on a live read whose owner is checked |
| status | merge patch with the resourceVersion that it was planned from; an applied status could not empty a map |
| both | fields that this version does not know are kept, those that the stored kind does not know are left out |
| a Workload's objects | never written again; deleted with their uid |
| events | after the status is stored |
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from psr_operator.api import GROUP, VERSION, Resource
from psr_operator.api.stored import parse, to_stored
from psr_operator.backends import backend_of
from psr_operator.backends.base import WorkloadFacts
from psr_operator.conditions import Transition
from psr_operator.controller.client import Client, Refused
from psr_operator.controller.creating import Obstacle, collision, orphaned
from psr_operator.controller.older_kinds import OlderKinds
from psr_operator.controller.paths import collection_of, object_path, path_of
from psr_operator.controller.server_writer import ServerWriter
from psr_operator.controller.store import Entry, Store, key_of
from psr_operator.controller.workqueue import Key
from psr_operator.planner.types import Workload
from psr_operator.reasons import Reason
from psr_operator.render import RenderError, Settings


class Writer(ServerWriter):
    """Writes for one operator.

    Args:
        settings: what rendering needs to know of this operator.
        changed: called with each object of ours that a write has changed, and whether its spec is new.
    """

    def __init__(
        self, client: Client, store: Store, settings: Settings, changed: Callable[[Key, Entry, bool], None]
    ) -> None:
        super().__init__(client, store, settings)
        self._changed = changed
        self._older = OlderKinds(time.monotonic)

    # --- our own objects

    async def status(self, key: Key, entry: Entry, before: dict[str, Any], status: dict[str, Any]) -> None:
        """Store a status that was planned from `before`, the one of `entry` as it was read.

        What this version does not know of the stored one stays; what the stored kind does not know is left out.

        Raises:
            Refused: 409 where the object has changed since.
        """
        before, status = (self._older.known(key.kind, "status", item) for item in (before, status))
        change = difference(before, status)
        if not change:
            return
        meta = {"uid": entry.uid, "resourceVersion": str(entry.version)}
        change = with_unknown(change, before, entry.raw().get("status") or {})
        raw = await self.client.merge(path_of(key, "status"), {"metadata": meta, "status": change})
        self._store_answer(raw, spec=False)
        self._older.learn(key.kind, {"status": change}, raw)

    async def child(self, parent: Resource, wanted: Resource) -> bool:
        """Make a child exist with this spec. Tells whether it was created now.

        Raises:
            Obstacle: the name is somebody else's, or the apiserver refuses the child.
        """
        key = Key(wanted.kind, wanted.metadata.namespace, wanted.metadata.name)
        entry = self._store.get(key)
        if entry is None:
            raw, created = await self.create(key.namespace, to_stored(wanted), parent.metadata.uid)
            self._store_answer(raw)
            if created:
                self._older.learn(key.kind, {"spec": wanted.spec.to_json()}, raw)
            return created
        if entry.owner != parent.metadata.uid:
            raise collision(wanted.kind, key.name)
        if not entry.deleting:
            await self._update(key, entry, wanted)
        return False

    async def _update(self, key: Key, entry: Entry, wanted: Resource) -> None:
        spec = wanted.spec.to_json()
        digest = int.from_bytes(hashlib.blake2b(json.dumps(spec, sort_keys=True).encode(), digest_size=8).digest())
        if entry.checked == (entry.generation, digest):
            return
        raw = entry.raw()
        generation = entry.generation
        spec = self._older.known(key.kind, "spec", spec)
        before = parse({**raw, "status": {}}).spec.to_json()
        change = with_unknown(difference(before, spec), before, raw.get("spec") or {})
        if change:
            meta = {"uid": entry.uid, "resourceVersion": str(entry.version)}
            try:
                raw = await self.client.merge(path_of(key), {"metadata": meta, "spec": change})
            except Refused as refused:
                if refused.passing:
                    raise
                raise Obstacle(Reason.CHILD_REJECTED, str(refused)) from refused
            self._store_answer(raw)
            self._older.learn(key.kind, {"spec": change}, raw)
            generation = int(raw["metadata"].get("generation", 0))
        fresh = self._store.get(key)
        if fresh is not None and fresh.uid == entry.uid:
            fresh.checked = (generation, digest)

    def _store_answer(self, raw: Mapping[str, Any], *, spec: bool = True) -> None:
        """Take in what a write has changed; the watch will say nothing new of it."""
        entry = self._store.put(raw)
        if entry is not None:
            self._changed(key_of(raw), entry, spec)

    # --- workloads

    async def workload(self, owner: Resource, workload: Workload) -> bool:
        """Create the objects of a Workload, unless it is there. Tells whether it was created now.

        Raises:
            Obstacle: it cannot be rendered, the name is somebody else's, or the apiserver refuses it.
        """
        uid, namespace = owner.metadata.uid, owner.metadata.namespace
        known = self._store.workloads.of(uid)
        if any(facts.name == workload.name and facts.owner == uid for facts in known):
            return False
        orphan = next((facts for facts in known if not (facts.owner or facts.ended)), None)
        if orphan is not None:
            raise orphaned(orphan.kind.kind, orphan.name)
        backend = backend_of(workload)
        try:
            first, *further = backend.objects(workload, owner, self._settings)
        except RenderError as error:
            raise Obstacle(error.reason, str(error)) from error
        kinds = {(kind.api_version, kind.kind): kind for kind in backend.kinds}
        for body in further:
            await self.create(namespace, body, uid, kinds)
        # Last, for it stands for the Workload: once it is there, nothing of it is created again.
        raw, created = await self.create(namespace, first, uid, kinds)
        facts = backend.facts(raw)
        if facts is not None:
            self._store.workloads.put(facts)
        return created

    async def stop(self, facts: WorkloadFacts) -> None:
        """Delete the object that stands for a Workload; its pods follow."""
        if not facts.deleting:
            await self.client.delete(object_path(facts.kind, facts.labels.namespace, facts.name), facts.uid)

    # --- events

    async def event(self, resource: Resource, transition: Transition, now: datetime) -> None:
        """Report a transition."""
        meta = resource.metadata
        when = now.strftime("%Y-%m-%dT%H:%M:%SZ")
        body = {
            "metadata": {"name": f"{meta.name}.{secrets.token_hex(6)}", "namespace": meta.namespace},
            "involvedObject": {
                "apiVersion": f"{GROUP}/{VERSION}",
                "kind": resource.kind,
                "name": meta.name,
                "namespace": meta.namespace,
                "uid": meta.uid,
            },
            "reason": str(transition.reason),
            "message": transition.message[:1000],
            "type": "Warning" if transition.warning else "Normal",
            "count": 1,
            "firstTimestamp": when,
            "lastTimestamp": when,
            "source": {"component": "psr-operator"},
            "reportingComponent": "psr-operator",
        }
        await self.client.create(collection_of("Event", meta.namespace), body)


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON merge patch that makes `after` of `before`."""
    change: dict[str, Any] = {key: None for key in before if key not in after}
    for key, value in after.items():
        old = before.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            inner = difference(old, value)
            if inner:
                change[key] = inner
        elif key not in before or old != value:
            change[key] = value
    return change


def with_unknown(change: dict[str, Any], before: Mapping[str, Any], stored: Mapping[str, Any]) -> dict[str, Any]:
    """A merge patch whose lists keep what their stored items hold beyond what was read of them.

    Args:
        change: the patch. A list in it replaces the stored one as a whole.
        before: as it was read, without fields that this version does not know.
        stored: with them.
    """
    whole = dict(change)
    for key, value in change.items():
        read, kept = before.get(key), stored.get(key)
        if isinstance(value, Mapping) and isinstance(read, Mapping) and isinstance(kept, Mapping):
            whole[key] = with_unknown(dict(value), read, kept)
        elif isinstance(value, list) and isinstance(read, list) and isinstance(kept, list) and len(read) == len(kept):
            further = {
                _name_of(item): {name: held for name, held in full.items() if name not in item}
                for item, full in zip(read, kept, strict=True)
                if isinstance(item, Mapping) and isinstance(full, Mapping)
            }
            whole[key] = [
                {**further.get(_name_of(item), {}), **item} if isinstance(item, Mapping) else item for item in value
            ]
    return whole


def _name_of(item: Mapping[str, Any]) -> str:
    """What an item of a list is known by: its name or type, else all of it."""
    return str(item.get("name") or item.get("type") or json.dumps(item, sort_keys=True))
