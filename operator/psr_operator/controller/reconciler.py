"""One object: read, observe, plan to a fixed point, one status write, carry out, report.

The planner is asked again on its own answer until it has nothing to add, so that a chain of decisions (an attempt ends,
the next task begins) is one write. The intent stands in the status before anything is made; what a crash leaves between
two writes, the next reconciliation finishes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from psr_operator.api import KINDS, PolicyServer, Resource
from psr_operator.api.common import Meta, Status, WorkStatus
from psr_operator.api.stored import read_leniently
from psr_operator.backends.base import PodFacts
from psr_operator.conditions import State, Summary, Transition, blocked_fields, status_fields, transition
from psr_operator.controller.client import Client, Refused
from psr_operator.controller.creating import Obstacle
from psr_operator.controller.facts import DeploymentFacts
from psr_operator.controller.informer import Informer
from psr_operator.controller.paths import collection_of, path_of
from psr_operator.controller.prober import Prober
from psr_operator.controller.server_state import server_state
from psr_operator.controller.store import Entry, Store
from psr_operator.controller.warning_events import WarningEvents
from psr_operator.controller.workload_state import silent, workload_states
from psr_operator.controller.workqueue import Key
from psr_operator.controller.writer import Writer
from psr_operator.planner import plan
from psr_operator.planner.types import Observed, Plan, Server, ServerState
from psr_operator.reasons import Reason
from psr_operator.render import LABEL_UID
from psr_runtime.protocol import API_PORT

log = logging.getLogger(__name__)

LONGEST_CHAIN = 20
"""Plans on top of each other; more means that the planner undoes itself."""
OBSTACLE_SECONDS = 60.0
"""Between two checks of whether something that could not be made can be made by then."""
RESTORE_SECONDS = 30.0
"""Between two looks at whether the objects of a running server are all there; they are not watched."""
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
        restore_seconds: between two looks at whether the objects of a running server are all there.
    """

    client: Client
    store: Store
    writer: Writer
    prober: Prober
    informer: Informer
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    on_child: Callable[[Key], None] = lambda _key: None
    obstacle_seconds: float = OBSTACLE_SECONDS
    restore_seconds: float = RESTORE_SECONDS
    events: WarningEvents = field(init=False)
    _obstacles: dict[Key, tuple[tuple[str, int], Obstacle]] = field(default_factory=dict)
    _refused: dict[Key, str] = field(default_factory=dict)
    _restored: dict[Key, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.events = WarningEvents(self.client, time.monotonic)

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
            self._refused.pop(key, None)
            self._restored.pop(key, None)
            if entry is not None:
                self.events.forget(entry.uid)
            return None
        if not self.informer.knows(key.namespace):
            return UNLISTED_SECONDS
        try:
            resource = self.store.resource(key)
        except ValidationError as error:
            await self._invalid(key, entry, error)
            return None
        assert resource is not None
        resource = self._named(key, resource)
        if await self._still_obstructed(key, resource):
            return self.obstacle_seconds
        if self._unasked(resource):
            return UNASKED_SECONDS
        ask_again = await self._read_events(resource)
        planned, wanted, transitions = fold(resource, self._observe(resource), self.now())
        if _needs_proof(resource, planned):
            await self._refresh(resource)
            planned, wanted, transitions = fold(resource, self._observe(resource), self.now())
        if key in self._refused:
            planned = _with_status(planned, blocked_fields(planned, self._refused[key]))
        await self._store(key, entry, resource, planned)
        try:
            await self._carry_out(key, planned, wanted)
        except Obstacle as obstacle:
            await self._stall(key, planned, obstacle)
            return self.obstacle_seconds
        except Refused as refused:
            await self._say_refused(key, planned, refused)
            raise
        for item in transitions:
            await self.writer.event(planned, item, self.now())
        if self._refused.pop(key, None) is not None:
            return 0.0  # it goes on: say so
        restore = self.restore_seconds if wanted.servers else None
        return min((item for item in (wanted.again_after, ask_again, restore) if item is not None), default=None)

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
        progress = self.prober.progress_of(uid)
        states = workload_states(self.store.workloads_of(uid), pods, progress, self.events.said)
        return Observed(states, self._server(resource, pods), children, peers)

    async def _read_events(self, resource: Resource) -> float | None:
        """Read Events of what does not get on and gives no reason. Returns seconds after which to do it again."""
        uid, namespace = resource.metadata.uid, resource.metadata.namespace
        pods = [pod for pod in self.store.pods.of(uid) if self._is_own(pod, uid)]
        return await self.events.ask(uid, namespace, silent(self.store.workloads_of(uid), pods))

    def _named(self, key: Key, resource: Resource) -> Resource:
        """An object that nobody has looked at yet, with the decision how what it makes is named: Jobs of two kinds,
        and their folders, must not have one name."""
        if resource.status.observed_generation >= 0 or isinstance(resource, PolicyServer):
            return resource
        others = (key._replace(kind=kind) for kind in KINDS if kind not in (key.kind, "PolicyServer"))
        if not any(self.store.get(other) for other in others):
            return resource
        return _with_status(resource, {"naming": "Kind"})

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
            events=self.events.said,
            unreachable=self.prober.unreachable,
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
        if planned.status == before.status and before.status.observed_generation >= 0:
            return
        stored = {**before.status.to_json()}
        if before.status.observed_generation < 0:
            stored.pop("naming", None)  # decided just now
        try:
            await self.writer.status(key, entry, stored, planned.status.to_json())
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
                await self._restore(key, resource, server, deployment)
            if not wanted.servers and deployment is not None:
                await self.writer.release(resource, deployment)

    async def _restore(self, key: Key, owner: PolicyServer, server: Server, deployment: DeploymentFacts | None) -> None:
        """Look from time to time whether what belongs to a running server is there, and make again what is not."""
        now = time.monotonic()
        if deployment is None:  # made just now, and all that belongs to it
            self._restored[key] = now
        elif now - self._restored.get(key, float("-inf")) >= self.restore_seconds:
            self._restored[key] = now
            known = self.prober.key_of(key.namespace, server.name)
            if await self.writer.restore(owner, server, deployment, known) and known is None:
                self.prober.forget_server(key.namespace, server.name)

    async def _stall(self, key: Key, resource: Resource, obstacle: Obstacle) -> None:
        """Say that what is wanted cannot be made."""
        log.warning("%s/%s %s: %s", key.namespace, resource.ref, obstacle.reason, obstacle)
        self._obstacles[key] = (_spec_of(resource), obstacle)
        await self._store_summary(key, resource, Summary(State.FAILED, obstacle.reason, str(obstacle)))

    async def _say_refused(self, key: Key, resource: Resource, refused: Refused) -> None:
        """Say on an object that what it wants is refused for now: by a webhook that is down, say."""
        if refused.code in (404, 409) or key in self._refused:
            return
        self._refused[key] = f"the apiserver refuses it for now: {refused}"
        entry = self.store.get(key)
        if entry is not None:
            said = _with_status(resource, blocked_fields(resource, self._refused[key]))
            await self._store(key, entry, resource, said)

    async def _store_summary(self, key: Key, resource: Resource, summary: Summary) -> None:
        entry = self.store.get(key)
        if entry is None:
            return
        before = resource.status.to_json()
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
            status: Status = read_leniently(status_kind, raw.get("status") or {})
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


def _with_status(resource: Resource, fields: dict[str, Any]) -> Resource:
    """An object with other fields of its status."""
    return resource.model_copy(update={"status": resource.status.model_copy(update=fields)})


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
