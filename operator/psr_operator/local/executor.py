"""`psr run`: plan, carry out, observe, until every object is Ready or Stalled.

The same planner as on Kubernetes decides; this executor starts processes where the controller makes Jobs. Statuses live
in memory. After a restart, finished work is taken over where its artefact is still there; the idempotent stages rebuild
the rest.
"""

from __future__ import annotations

import fcntl
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from psr_operator.api import PolicyServer, Resource
from psr_operator.api.manifest import ManifestError
from psr_operator.api.server import ServerTemplate
from psr_operator.conditions import Transition
from psr_operator.local.rehearsal import Rehearsal
from psr_operator.local.store import Store
from psr_operator.planner import plan
from psr_operator.planner.types import Observed, Plan, Server, ServerState, Workload, WorkloadState
from psr_operator.reasons import Reason
from psr_runtime.protocol.errors import Interrupted

POLL_SECONDS = 0.2
LONGEST_SETTLING = 1000
"""Rounds of planning without anything happening outside; more means that two plans undo each other."""


class Machine(Protocol):
    """What carries out Workloads and Servers: `Node` with processes, `Rehearsal` with nothing."""

    def run(self, workload: Workload) -> None: ...
    def stop(self, name: str) -> None: ...
    def workload(self, name: str) -> WorkloadState | None: ...
    def serve(self, server: Server) -> None: ...
    def release(self, name: str) -> None: ...
    def server(self, name: str) -> ServerState | None: ...
    def stop_all(self) -> None: ...


class WorkFolder:
    """A folder that one `psr run` uses at a time: the lock is held by it and by every process that it started.

    Args:
        folder: made if it is not there.
        say: called once when the lock has to be waited for.
        stop: ends the waiting.

    Raises:
        Interrupted: `stop` was set while it waited.
    """

    def __init__(self, folder: Path, say: Callable[[str], None], stop: threading.Event) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._file = open(folder / "lock", "a")  # noqa: SIM115 - held as long as the object lives
        waiting = False
        while not self._locked():
            if not waiting:
                say(f"{folder} is in use; waiting for the processes of the other run to end")
                waiting = True
            if stop.wait(POLL_SECONDS):
                self._file.close()
                raise Interrupted(f"{folder} is still in use by another run; run it again once that has ended")

    def _locked(self) -> bool:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    @property
    def descriptor(self) -> int:
        return self._file.fileno()

    def close(self) -> None:
        self._file.close()


class Executor:
    """Carries out the plans of a set of objects on this machine.

    Args:
        folder: where copies of the objects are kept; None for a rehearsal, which leaves nothing behind.
        node: carries out Workloads and Servers.
        report: called with each transition once its status is stored.
        clock: gives the time; aware.
        artefact_exists: whether the artefact of this digest is still at this URI; finished work of an earlier run of
            the same folder is then not asked for again.
    """

    def __init__(
        self,
        folder: Path | None,
        node: Machine,
        report: Callable[[Transition], None],
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        artefact_exists: Callable[[str, str], bool] = lambda _uri, _digest: False,
    ) -> None:
        self.store = Store(folder, artefact_exists)
        self.node = node
        self._clock = clock
        self._report = report
        self._roots: list[tuple[str, str]] = []
        self._workloads: dict[str, set[str]] = {}

    def apply(self, objects: Sequence[Resource]) -> None:
        """Take in what a user declares.

        Raises:
            ManifestError: a field that cannot be changed was changed, or a server is named that is not there.
        """
        declared = {item.metadata.name for item in objects if isinstance(item, PolicyServer)}
        for item in objects:
            named = getattr(getattr(item.spec, "server", None), "ref", None)
            if named is not None and named not in declared:
                raise ManifestError(
                    f"{item.ref}: spec.server.ref: these manifests hold no PolicyServer/{named}; "
                    "add it, or describe a server of the object's own under spec.server.inline"
                )
        for item in objects:
            self.store.apply(with_local_defaults(item))
        self._roots = [(item.kind, item.metadata.name) for item in objects]

    def run(self, stop: threading.Event, on_tick: Callable[[], None] = lambda: None, *, stay: bool = False) -> None:
        """Plan and carry out until every root is Ready or Stalled and nothing is left running, or `stop` is set.

        Args:
            on_tick: called between rounds (progress display, reading a changed manifest).
            stay: go on after the end until `stop` is set.
        """
        try:
            while not stop.is_set():
                self.settle()
                on_tick()
                if self.finished and not stay:
                    return
                stop.wait(POLL_SECONDS)
        finally:
            self.node.stop_all()

    @property
    def roots(self) -> list[Resource]:
        """The declared objects with their status."""
        return [item for key in self._roots if (item := self.store.get(*key)) is not None]

    @property
    def finished(self) -> bool:
        """Whether every root has come to its end and no server of theirs is left.

        A server among the roots stays for the other roots and ends with them; alone it never ends.
        """
        servers = [item for item in self.roots if isinstance(item, PolicyServer)]
        work = [item for item in self.roots if not isinstance(item, PolicyServer)]
        if not work:
            return all(item.status.holds("Stalled") for item in servers)
        if not all(self._has_ended(item) for item in work):
            return False
        failed = any(item.status.holds("Stalled") for item in self.roots)
        left = [item for item in self.store.servers().values() if item.status.endpoints and item not in servers]
        return failed or not left

    def _has_ended(self, item: Resource) -> bool:
        """Whether an object has come to its end, is suspended, or waits for a server that cannot serve."""
        if item.status.holds("Ready") or item.status.holds("Stalled"):
            return True
        if item.status.holds("Suspended"):
            return True  # who wants to change that stays (--watch), or runs it again
        for waiting in (item, *self.store.children(item)):
            ready = waiting.status.condition("Ready")
            if ready is not None and ready.reason == Reason.WAITING_FOR_SERVER:
                server = self.store.get("PolicyServer", waiting.spec.server.ref or "")
                if server is not None and server.status.holds("Stalled"):
                    return True
        return False

    def settle(self) -> None:
        """Plan until nothing changes any more: objects among themselves first, then what they start and stop."""
        for _ in range(LONGEST_SETTLING):
            plans = [self._reconcile(item) for item in self.store]
            if any(changed for changed, _, _ in plans):
                continue
            started = [self._carry_out(resource, wanted) for _, resource, wanted in plans]
            if not any(started):
                return
        raise RuntimeError("the plans of this run undo each other; please report it with its manifest")

    def _reconcile(self, stale: Resource) -> tuple[bool, Resource, Plan]:
        """Plan one object; store its status and its children. Returns whether anything changed by it as well."""
        resource = self.store.get(stale.kind, stale.metadata.name)
        assert resource is not None
        wanted = plan(resource, self._observe(resource), self._clock())
        changed = self.store.set_status(resource, wanted.status)
        if wanted.transition is not None:
            self._report(wanted.transition)
        for child in wanted.children:
            changed |= self.store.apply(with_local_defaults(child))
        return changed, resource, wanted

    def _observe(self, resource: Resource) -> Observed:
        names = self._workloads.setdefault(resource.metadata.uid, set())
        workloads: list[WorkloadState] = [
            state for name in sorted(names) if (state := self.node.workload(name)) is not None
        ]
        serving = self.node.server(resource.metadata.name) if isinstance(resource, PolicyServer) else None
        servers = (serving,) if serving is not None else ()
        return Observed(tuple(workloads), servers, self.store.children(resource), self.store.servers())

    def _carry_out(self, resource: Resource, wanted: Plan) -> bool:
        """Start and stop what a plan says. Returns whether anything was started."""
        changed = False
        for workload in wanted.workloads:
            if workload.name not in self._workloads[resource.metadata.uid]:
                self._workloads[resource.metadata.uid].add(workload.name)
                self.node.run(workload)
                changed = True
        for name in wanted.stop:
            self.node.stop(name)
        if isinstance(resource, PolicyServer):
            for server in wanted.servers:
                self.node.serve(server)
            if not wanted.servers:
                self.node.release(resource.metadata.name)
        return changed


def rehearse(executor: Executor, objects: Sequence[Resource], rehearsal: Rehearsal) -> None:
    """Have the executor of a rehearsal carry out objects until no more is planned: a server alone never ends."""
    executor.apply(objects)
    still, lines = threading.Event(), -1

    def tick() -> None:
        nonlocal lines
        if rehearsal.lines == lines:
            still.set()
        lines = rehearsal.lines

    executor.run(still, tick)


def with_local_defaults(resource: Resource) -> Resource:
    """What this executor fills in where a manifest leaves the choice to it: servers are kept between rounds."""
    spec = resource.spec
    server = getattr(spec, "server", None)
    if isinstance(spec, ServerTemplate) and spec.idle is None:
        return resource.model_copy(update={"spec": spec.model_copy(update={"idle": "Keep"})})
    if isinstance(server, ServerTemplate) and server.idle is None:
        kept = server.model_copy(update={"idle": "Keep"})
        return resource.model_copy(update={"spec": spec.model_copy(update={"server": kept})})
    return resource
