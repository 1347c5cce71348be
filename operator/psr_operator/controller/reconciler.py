"""One object: read, observe, plan to a fixed point, one status write, carry out, report.

The planner is asked again on its own answer until it has nothing to add, so that a chain of decisions (an attempt ends,
the next task begins) is one write. The intent stands in the status before anything is made; what a crash leaves between
two writes, the next reconciliation finishes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from psr_operator.api import KINDS, PolicyServer, Resource
from psr_operator.api.common import Meta, Status, WorkStatus
from psr_operator.backends.base import PodFacts
from psr_operator.conditions import State, Summary, Transition, status_fields, transition
from psr_operator.controller.client import Client, Refused
from psr_operator.controller.informer import Informer
from psr_operator.controller.paths import collection_of, path_of
from psr_operator.controller.prober import Prober
from psr_operator.controller.server_state import server_state
from psr_operator.controller.store import Entry, Store
from psr_operator.controller.workload_state import workload_states
from psr_operator.controller.workqueue import Key
from psr_operator.controller.writer import Obstacle, Writer
from psr_operator.planner import plan
from psr_operator.planner.types import Observed, Plan, ServerState
from psr_operator.reasons import Reason
from psr_operator.render import LABEL_UID
from psr_runtime.protocol import API_PORT

log = logging.getLogger(__name__)

LONGEST_CHAIN = 20
"""Plans on top of each other; more means that the planner undoes itself."""
OBSTACLE_SECONDS = 60.0
"""Between two checks of whether something that could not be made can be made by then."""
UNLISTED_SECONDS = 0.5
"""Until an object is reconciled again whose namespace is being listed."""
UNASKED_SECONDS = 0.5
"""Until a server that was Ready is reconciled again, while one of its pods has not been asked yet."""


@dataclass
class Reconciler:
    """Carries out the plans of objects.

    Attributes:
        now: the present time; aware.
        on_child: called for each child or Workload that was created, with the key of its parent.
        obstacle_seconds: between two checks of whether something that could not be made can be made now.
    """

    client: Client
    store: Store
    writer: Writer
    prober: Prober
    informer: Informer
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    on_child: Callable[[Key], None] = lambda _key: None
    obstacle_seconds: float = OBSTACLE_SECONDS
    _obstacles: dict[Key, tuple[tuple[str, int], Obstacle]] = field(default_factory=dict)

    async def reconcile(self, key: Key) -> float | None:
        """Reconcile one object.

        Returns:
            Seconds after which to do it again even if nothing happens, None for no need.

        Raises:
            Refused, Unreachable: to be tried again, with growing pauses.
        """
        entry = self.store.get(key)
        if entry is None or entry.deleting:
            self._obstacles.pop(key, None)
            return None
        if not self.informer.knows(key.namespace):
            return UNLISTED_SECONDS
        try:
            resource = self.store.resource(key)
        except ValidationError as error:
            await self._invalid(key, entry, error)
            return None
        assert resource is not None
        if await self._still_obstructed(key, resource):
            return self.obstacle_seconds
        if self._unasked(resource):
            return UNASKED_SECONDS
        planned, wanted, transitions = fold(resource, self._observe(resource), self.now())
        if _needs_proof(resource, planned):
            await self._refresh(resource)
            planned, wanted, transitions = fold(resource, self._observe(resource), self.now())
        await self._store(key, entry, resource, planned)
        try:
            await self._carry_out(key, planned, wanted)
        except Obstacle as obstacle:
            await self._stall(key, planned, obstacle)
            return self.obstacle_seconds
        for item in transitions:
            await self.writer.event(planned, item, self.now())
        return wanted.again_after

    # --- what is seen

    def _observe(self, resource: Resource) -> Observed:
        uid, namespace = resource.metadata.uid, resource.metadata.namespace
        pods = [pod for pod in self.store.pods.of(uid) if self._is_own(pod, uid)]
        peers = {}
        entry = self.store.get(Key(resource.kind, namespace, resource.metadata.name))
        for name in entry.names if entry is not None else ():
            peer = self._read(Key("PolicyServer", namespace, name))
            if peer is not None:
                peers[name] = peer
        children = tuple(child for key in self.store.children(uid) if (child := self._read(key)) is not None)
        states = workload_states(self.store.workloads_of(uid), pods, self.prober.progress_of(uid))
        return Observed(states, self._server(resource, pods), children, peers)

    def _is_own(self, pod: PodFacts, uid: str) -> bool:
        """Whether a pod that names an object in its labels is its own: of a server, of a Workload that the object
        controls, or of one that is gone already."""
        if pod.server or pod.owner not in self.store.workloads.by_uid:
            return True
        workload = self.store.workload_of(pod)
        return workload is not None and workload.owner == uid

    def _read(self, key: Key) -> Resource | None:
        """An object from the store; None for one that is not there or cannot be read (it says so itself)."""
        try:
            return self.store.resource(key)
        except ValidationError:
            return None

    def _server(self, resource: Resource, pods: list[PodFacts]) -> tuple[ServerState, ...]:
        if not isinstance(resource, PolicyServer):
            return ()
        meta, spec = resource.metadata, resource.spec
        state = server_state(
            meta.name,
            self.store.deployment_of(meta.uid),
            pods,
            self.prober.reports,
            url=f"http://{meta.name}.{meta.namespace}.svc:{spec.port or API_PORT}",
            model=spec.model.uri,
            digest=spec.model_digest,
        )
        return (state,) if state is not None else ()

    def _unasked(self, resource: Resource) -> bool:
        """Whether a Ready server has a pod that was not asked yet: it must not look unready to a new operator."""
        if not isinstance(resource, PolicyServer) or not (resource.spec.active and resource.status.endpoints):
            return False
        pods = self.store.pods.of(resource.metadata.uid)
        return any(pod.server and pod.ready and not pod.deleting and pod.uid not in self.prober.tried for pod in pods)

    async def _refresh(self, resource: Resource) -> None:
        """Read what an object owns from the apiserver itself."""
        meta = resource.metadata
        selector = f"{LABEL_UID}={meta.uid}"
        never_owned = self.store.workloads if isinstance(resource, PolicyServer) else self.store.deployments
        for of in self.informer.dependents():
            if of.index is never_owned:
                continue
            before = {facts.uid for facts in of.index.of(meta.uid)} & of.known()
            listed = set()
            async for raw in self.client.items(collection_of(of.kind, meta.namespace), selector):
                facts = of.facts_of(raw)
                if facts is not None:
                    listed.add(facts.uid)
                    of.index.put(facts)
            for uid in before - listed:
                of.index.drop(uid)

    # --- what is written

    async def _store(self, key: Key, entry: Entry, before: Resource, planned: Resource) -> None:
        if planned.status == before.status:
            return
        try:
            await self.writer.status(key, entry, before.status.to_json(), planned.status.to_json())
        except Refused as refused:
            if refused.code != 409:
                raise
            await self._read_again(key)
            raise

    async def _read_again(self, key: Key) -> None:
        """Take in the newest version of an object that the store is behind of."""
        raw = await self.client.get(path_of(key))
        if raw is None:
            self.store.drop(key)
        else:
            self.store.put(raw)

    async def _carry_out(self, key: Key, resource: Resource, wanted: Plan) -> None:
        for child in wanted.children:
            if await self.writer.child(resource, child):
                self.on_child(key)
        workloads = {facts.name: facts for facts in self.store.workloads.of(resource.metadata.uid)}
        for name in wanted.stop:
            if name in workloads:
                await self.writer.stop(workloads[name])
        for workload in wanted.workloads:
            if await self.writer.workload(resource, workload):
                self.on_child(key)
        if isinstance(resource, PolicyServer):
            deployment = self.store.deployment_of(resource.metadata.uid)
            for server in wanted.servers:
                if await self.writer.server(resource, server, deployment):
                    self.on_child(key)
            if not wanted.servers and deployment is not None:
                await self.writer.release(resource, deployment)

    async def _stall(self, key: Key, resource: Resource, obstacle: Obstacle) -> None:
        """Say that what is wanted cannot be made."""
        log.warning("%s/%s %s: %s", key.namespace, resource.ref, obstacle.reason, obstacle)
        self._obstacles[key] = (_spec_of(resource), obstacle)
        await self._store_summary(key, resource, Summary(State.FAILED, obstacle.reason, str(obstacle)))

    async def _store_summary(self, key: Key, resource: Resource, summary: Summary) -> None:
        entry = self.store.get(key)
        if entry is None:
            return
        before = entry.raw().get("status") or {}
        status = resource.status.model_copy(update=status_fields(summary, resource, self.now())).to_json()
        if status != before:
            await self.writer.status(key, entry, before, status)
            item = transition(resource, summary)
            if item is not None:
                await self.writer.event(resource, item, self.now())

    async def _still_obstructed(self, key: Key, resource: Resource) -> bool:
        """Whether what could not be made for this very spec cannot be made now either."""
        if key not in self._obstacles:
            return False
        spec, obstacle = self._obstacles[key]
        if spec == _spec_of(resource) and await self.writer.still_refused(obstacle):
            return True
        del self._obstacles[key]
        return False

    async def _invalid(self, key: Key, entry: Entry, error: ValidationError) -> None:
        """Say what is wrong with an object that the models refuse."""
        raw = entry.raw()
        kind = KINDS[key.kind]
        status_kind = kind.model_fields["status"].annotation
        assert isinstance(status_kind, type)
        try:
            status: Status = status_kind.model_validate(raw.get("status") or {})
        except ValidationError:
            status = status_kind()
        faults = "; ".join(
            f"{'.'.join(str(part) for part in fault['loc']) or 'the object'}: {fault['msg']}"
            for fault in error.errors()
        )
        bare = kind.model_construct(kind=key.kind, metadata=_meta(raw), spec=None, status=status)
        summary = Summary(State.FAILED, Reason.INVALID_SPEC, f"{faults}; correct it and apply it again")
        await self._store_summary(key, bare, summary)


def fold(resource: Resource, observed: Observed, now: datetime) -> tuple[Resource, Plan, list[Transition]]:
    """Plan until the plan changes nothing any more.

    Returns:
        The object with the status to be stored, its plan, and the transitions on the way that are worth an event.
    """
    transitions: list[Transition] = []
    for _ in range(LONGEST_CHAIN):
        wanted = plan(resource, observed, now)
        if wanted.transition is not None and wanted.transition.eventful:
            transitions.append(wanted.transition)
        if wanted.status == resource.status:
            return resource, wanted, transitions
        resource = resource.model_copy(update={"status": wanted.status})
    raise RuntimeError(f"{resource.ref}: the plans of this object undo each other; please report it with its manifest")


def _spec_of(resource: Resource) -> tuple[str, int]:
    """Which object, and which of its specs: another object may come under the same name."""
    return resource.metadata.uid, resource.metadata.generation


def _needs_proof(before: Resource, after: Resource) -> bool:
    """Whether the apiserver must be asked, not the store: before an attempt counts as lost or is followed by another
    (two writers), and before a server's devices count as free (two holders)."""
    if isinstance(before, PolicyServer):
        return bool(before.status.holds_gpus and not after.status.holds_gpus)
    if not isinstance(before.status, WorkStatus):
        return False
    for key, item in after.status.attempts.items():
        earlier = before.status.attempts.get(key)
        lost = item.disruptions > (earlier.disruptions if earlier is not None else 0)
        again = item.open and item.attempt > 1 and (earlier is None or item.attempt > earlier.attempt)
        if lost or again:
            return True
    return False


def _meta(raw: dict[str, Any]) -> Meta:
    meta = raw["metadata"]
    return Meta.model_construct(
        name=meta["name"],
        namespace=meta["namespace"],
        uid=meta["uid"],
        generation=int(meta.get("generation", 1)),
        labels={},
        annotations={},
        owner_references=[],
    )
