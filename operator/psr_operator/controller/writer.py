"""Every write of the controller, with its guards.

| what | how |
| --- | --- |
| create | POST; the name taken → live GET → ours by the owner's uid, else `NameCollision` |
| our children's specs | JSON merge patch of what differs, with uid and resourceVersion; a field no longer set goes |
| a server's objects | replaced as a whole on a live read whose owner is checked |
| status | merge patch with the resourceVersion that it was planned from; an applied status could not empty a map |
| a Workload's objects | never written again; deleted with their uid |
| events | after the status is stored |
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from psr_operator.api import GROUP, VERSION, PolicyServer, Resource
from psr_operator.api.stored import parse, to_stored
from psr_operator.backends import backend_of
from psr_operator.backends.base import ObjectKind, WorkloadFacts
from psr_operator.conditions import Transition
from psr_operator.controller.client import Client, Refused
from psr_operator.controller.facts import DeploymentFacts, deployment_facts
from psr_operator.controller.paths import collection_of, kind_of, object_path, path_of
from psr_operator.controller.store import Entry, Store, key_of
from psr_operator.controller.workqueue import Key
from psr_operator.planner.types import Server, Workload
from psr_operator.reasons import AnyReason, Reason, rejected
from psr_operator.render import (
    ANNOTATION_MODEL_HASH,
    RenderError,
    Settings,
    key_secret,
    model_hash,
    server_hash,
)
from psr_operator.render import server as render_server

NO_KINDS: Mapping[tuple[str, str], ObjectKind] = {}


class Obstacle(Exception):
    """What is wanted cannot be made, and waiting will not help.

    Attributes:
        reason: for the condition.
        collection, body: of the POST that was refused, to be tried again; None where nothing was sent.
    """

    def __init__(
        self, reason: AnyReason, message: str, collection: str | None = None, body: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.collection = collection
        self.body = body


class Writer:
    """Writes for one operator.

    Args:
        settings: what rendering needs to know of this operator.
        changed: called with each object of ours that a write has changed, and whether its spec is new.
    """

    def __init__(
        self, client: Client, store: Store, settings: Settings, changed: Callable[[Key, Entry, bool], None]
    ) -> None:
        self.client = client
        self._store = store
        self._settings = settings
        self._changed = changed

    # --- our own objects

    async def status(self, key: Key, entry: Entry, before: Mapping[str, Any], status: Mapping[str, Any]) -> None:
        """Store a status that was planned from `before`, the one of `entry`.

        Raises:
            Refused: 409 where the object has changed since.
        """
        meta = {"uid": entry.uid, "resourceVersion": str(entry.version)}
        change = difference(before, status)
        raw = await self.client.merge(path_of(key, "status"), {"metadata": meta, "status": change})
        self._store_answer(raw, spec=False)

    async def child(self, parent: Resource, wanted: Resource) -> bool:
        """Make a child exist with this spec. Tells whether it was created now.

        Raises:
            Obstacle: the name is somebody else's, or the apiserver refuses the child.
        """
        key = Key(wanted.kind, wanted.metadata.namespace, wanted.metadata.name)
        entry = self._store.get(key)
        if entry is None:
            raw, created = await self._create(key.namespace, to_stored(wanted), parent.metadata.uid)
            self._store_answer(raw)
            return created
        if entry.owner != parent.metadata.uid:
            raise _collision(wanted.kind, key.name)
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
        change = difference(parse({**raw, "status": {}}).spec.to_json(), spec)
        if change:
            meta = {"uid": entry.uid, "resourceVersion": str(entry.version)}
            try:
                raw = await self.client.merge(path_of(key), {"metadata": meta, "spec": change})
            except Refused as refused:
                if refused.passing:
                    raise
                raise Obstacle(Reason.CHILD_REJECTED, str(refused)) from refused
            self._store_answer(raw)
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
        if any(facts.name == workload.name for facts in self._store.workloads.of(uid)):
            return False
        backend = backend_of(workload)
        try:
            first, *further = backend.objects(workload, owner, self._settings)
        except RenderError as error:
            raise Obstacle(error.reason, str(error)) from error
        kinds = {(kind.api_version, kind.kind): kind for kind in backend.kinds}
        for body in further:
            await self._create(namespace, body, uid, kinds)
        # Last, for it stands for the Workload: once it is there, nothing of it is created again.
        raw, created = await self._create(namespace, first, uid, kinds)
        facts = backend.facts(raw)
        if facts is not None:
            self._store.workloads.put(facts)
        return created

    async def stop(self, facts: WorkloadFacts) -> None:
        """Delete the object that stands for a Workload; its pods follow."""
        if not facts.deleting:
            await self.client.delete(object_path(facts.kind, facts.labels.namespace, facts.name), facts.uid)

    # --- servers

    async def server(self, owner: PolicyServer, server: Server, facts: DeploymentFacts | None) -> bool:
        """Make a server's objects exist as wanted. The Deployment comes last: while it is there, the others are.

        A Deployment whose wanted value is the same is left alone, whatever this operator would render today, and only
        its annotation of the model changes with the model: pods are not restarted by an upgrade.
        """
        same_server = facts is not None and facts.server_hash == server_hash(server)
        same_model = facts is not None and facts.model_hash == model_hash(server)
        running = facts is not None and facts.replicas > 0
        if running and same_server and same_model:
            return False
        try:
            objects = render_server(server, owner, self._settings, image=facts.image if running and facts else None)
        except RenderError as error:
            raise Obstacle(error.reason, str(error)) from error
        if facts is None:
            key = base64.urlsafe_b64encode(secrets.token_bytes(24)).decode()
            secret = key_secret(server.name, owner, key)
            await self._create(owner.metadata.namespace, secret, owner.metadata.uid)
        for body in sorted(objects, key=lambda item: item["kind"] == "Deployment"):
            if body["kind"] == "Deployment":
                if server.digest is None:  # only pods of its own distinguish this model from another
                    annotations = body["spec"]["template"]["metadata"].setdefault("annotations", {})
                    annotations[ANNOTATION_MODEL_HASH] = model_hash(server)
                only_model = running and same_server and server.digest is not None
                raw = await self._put(body, owner, fresh=facts is None, only_annotations=only_model)
                self._store_deployment(raw)
            elif not (same_model if body["kind"] == "ConfigMap" else same_server):
                await self._put(body, owner, fresh=facts is None)
        return facts is None

    async def release(self, owner: PolicyServer, facts: DeploymentFacts) -> None:
        """Scale a server to nothing."""
        if facts.replicas == 0:
            return
        path = object_path("Deployment", facts.labels.namespace, facts.name)
        live = await self.client.get(path)
        if live is not None and _owned(live, owner.metadata.uid):
            live["spec"]["replicas"] = 0
            self._store_deployment(await self.client.replace(path, live))

    def _store_deployment(self, raw: Mapping[str, Any]) -> None:
        facts = deployment_facts(raw)
        if facts is not None:
            self._store.deployments.put(facts)

    async def _put(
        self, body: dict[str, Any], owner: Resource, *, fresh: bool, only_annotations: bool = False
    ) -> dict[str, Any]:
        """Create an object of a server, or replace the one that is there (`only_annotations`: its annotations)."""
        kind, namespace, uid = body["kind"], owner.metadata.namespace, owner.metadata.uid
        if fresh:
            raw, created = await self._create(namespace, body, uid)
            if created:
                return raw
        path = object_path(kind, namespace, body["metadata"]["name"])
        live = await self.client.get(path)
        if live is None:
            return (await self._create(namespace, body, uid))[0]
        if not _owned(live, uid):
            raise _collision(kind, body["metadata"]["name"])
        if only_annotations:
            live["metadata"].setdefault("annotations", {}).update(body["metadata"].get("annotations", {}))
            return await self.client.replace(path, live)
        meta = {
            **body["metadata"],
            "uid": live["metadata"]["uid"],
            "resourceVersion": live["metadata"]["resourceVersion"],
        }
        return await self.client.replace(path, {**body, "metadata": meta})

    # --- all of them

    async def _create(
        self,
        namespace: str,
        body: Mapping[str, Any],
        uid: str,
        kinds: Mapping[tuple[str, str], ObjectKind] = NO_KINDS,
    ) -> tuple[dict[str, Any], bool]:
        """POST an object. The object, and whether it was created now (or is ours from before).

        Args:
            uid: of the owner.
            kinds: of a back end, by API version and name.
        """
        kind = body["kind"]
        collection = collection_of(kind_of(body, kinds), namespace)
        try:
            return await self.client.create(collection, body), True
        except Refused as refused:
            name = body["metadata"]["name"]
            if refused.reason == "AlreadyExists":
                live = await self.client.get(f"{collection}/{name}")
                if live is None:
                    raise  # it went in between: again
                if _owned(live, uid):
                    return live, False
                raise _collision(kind, name, collection, body) from refused
            if refused.passing or refused.code == 404:
                raise
            raise Obstacle(rejected(kind), str(refused), collection, body) from refused

    async def still_refused(self, obstacle: Obstacle) -> bool:
        """Whether what was refused would be refused again."""
        if obstacle.collection is None or obstacle.body is None:
            return False
        try:
            await self.client.create(f"{obstacle.collection}?dryRun=All", obstacle.body)
        except Refused as refused:
            return not refused.passing or refused.reason == "AlreadyExists"
        return False

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


def _owned(raw: Mapping[str, Any], uid: str) -> bool:
    return any(item["uid"] == uid for item in raw["metadata"].get("ownerReferences") or ())


def _collision(kind: str, name: str, collection: str | None = None, body: Mapping[str, Any] | None = None) -> Obstacle:
    message = f"{kind}/{name} exists and belongs to somebody else; remove it, or give this object another name"
    return Obstacle(Reason.NAME_COLLISION, message, collection, body)
