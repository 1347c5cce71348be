"""A world for the planner in which every order of things can be tried: small values, no files, nothing is copied.

Every object is planned on its own, as on Kubernetes: a parent may be planned long after its child, a plan may be
carried out after others have been (`delays`), an operator may die between the status and the rest (`crashes`), and
statuses may be lost (`losses`).
Times, messages and reasons are left out of the states; backoff is 0, so that nothing waits for a clock.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from world import TRAINING

from psr_operator.api import PolicyServer, Resource
from psr_operator.api.common import Condition, WorkStatus
from psr_operator.api.run import ModelStatus
from psr_operator.planner import plan
from psr_operator.planner.types import ExitClass, Observed, Phase, Server, ServerState, Workload, WorkloadState
from psr_operator.reasons import Reason
from psr_runtime.config import PruneStage
from psr_runtime.protocol import FailureReason

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PRESENT = 1
"""Every object's generation; what belongs to an earlier one has -1."""
Key = tuple[str, str]


class Work(NamedTuple):
    """A Workload that exists: an index of `Orders.workloads`, its owner, and how it is."""

    number: int
    owner: Key
    phase: str
    exit_class: str = ""
    gone: bool = False


class Serving(NamedTuple):
    """A server whose processes exist: an index of `Orders.servers`; `loading`, `ready`, `failed` or `stopping`."""

    number: int
    phase: str


class Held(NamedTuple):
    """A plan that is not carried out yet: of which object, from which of its versions."""

    key: Key
    version: int
    decision: int


class State(NamedTuple):
    """The world at one moment. What may still happen against the run's will is counted down."""

    objects: tuple[tuple[Key, int], ...]
    works: tuple[Work, ...] = ()
    serving: tuple[tuple[str, Serving], ...] = ()
    held: Held | None = None
    failures: int = 0
    toggles: int = 0
    delays: int = 0
    crashes: int = 0
    losses: int = 0
    switches: int = 0


class Move(NamedTuple):
    """Something that can happen next. `good`: it belongs to a run in which nothing goes wrong."""

    name: str
    state: State
    good: bool = True


@dataclass(frozen=True)
class Decision:
    """A plan in small values: versions of the object and its children, Workloads and servers to start and stop."""

    status: int
    children: tuple[tuple[Key, int], ...]
    workloads: tuple[int, ...]
    stop: tuple[str, ...]
    server: int | None


ACCURACY = {"m1": 0.5, "m2": 0.25, "m3": 0.5}
"""Of each model: the best one so far is the first, then the last."""
READING = ("search", "evaluate", "step-dpo")
"""Stages that need the weights of their model, or a server that has them."""


class Orders:
    """All states that a run can get into."""

    def __init__(
        self,
        run: Resource,
        *,
        failures: int = 0,
        toggles: int = 0,
        delays: int = 0,
        crashes: int = 0,
        losses: int = 0,
        switches: int = 0,
    ) -> None:
        self.versions: list[Resource] = []
        self.workloads: list[Workload] = []
        self.servers: list[Server] = []
        self.decisions: list[Decision] = []
        self._numbers: dict[Any, int] = {}
        self._planned: dict[Any, int] = {}
        self._applied: dict[tuple[int | None, int], int] = {}
        self.root: Key = (run.kind, run.metadata.name)
        meta = run.metadata.model_copy(update={"uid": "run"})
        first = self._version(run.model_copy(update={"metadata": meta}))
        self.first = State(((self.root, first),), (), (), None, failures, toggles, delays, crashes, losses, switches)

    # --- what can happen ---------------------------------------------------------------------------------------

    def moves(self, state: State) -> Iterator[Move]:
        """Everything that can happen next."""
        yield from self._plans(state)
        yield from self._pods(state)
        if state.toggles:
            yield self._toggle(state)
        if state.losses:
            yield from self._lose(state)
        if state.switches:
            yield self._switch(state)

    def _plans(self, state: State) -> Iterator[Move]:
        if state.held is not None:
            key, version, number = state.held
            free = state._replace(held=None)
            if dict(state.objects)[key] == version:
                yield Move(f"carry out {_ref(key)}", self.carry_out(free, key, self.decisions[number]))
            else:  # the stored object has moved on: the status is refused, and nothing of the plan is done
                yield Move(f"drop the plan of {_ref(key)}", free)
        for key, version in state.objects:
            if state.held is not None and state.held.key == key:
                continue  # one object is planned by one worker at a time
            number = self.decide(state, key, version)
            after = self.carry_out(state, key, self.decisions[number])
            if after == state:
                continue
            yield Move(f"plan {_ref(key)}", after)
            if state.delays and state.held is None:
                held = Held(key, version, number)
                yield Move(f"plan {_ref(key)}, wait", state._replace(held=held, delays=state.delays - 1), good=False)
            if state.crashes:
                begun = self._set(state, key, self.decisions[number].status)
                if begun not in (after, state):
                    yield Move(f"plan {_ref(key)}, die", begun._replace(crashes=state.crashes - 1), good=False)

    def _pods(self, state: State) -> Iterator[Move]:
        for index, work in enumerate(state.works):
            name = self.workloads[work.number].name
            if work.phase == "Pending":
                yield Move(f"{name} starts", _put(state, index, work._replace(phase="Running")))
            elif work.phase == "Running":
                yield Move(f"{name} succeeds", _put(state, index, work._replace(phase="Succeeded")))
                if state.failures:
                    fewer = state._replace(failures=state.failures - 1)
                    for how in (ExitClass.FAILURE, ExitClass.DATA, ExitClass.DISRUPTION):
                        ended = work._replace(phase="Failed", exit_class=how.name)
                        yield Move(f"{name} fails: {how.name}", _put(fewer, index, ended), good=False)
            elif work.phase == "Stopping":  # a deleted Job goes with its last pod
                yield Move(f"{name} has stopped", _put(state, index, None))
            elif not work.gone:
                yield Move(f"{name} is gone", _put(state, index, work._replace(gone=True)))
        for name, serving in state.serving:
            if serving.phase == "loading" and self.servers[serving.number].model.uri in self._gone(state):
                yield Move(f"{name} misses weights", _serve(state, name, serving._replace(phase="failed")))
            elif serving.phase == "loading":
                yield Move(f"{name} gets ready", _serve(state, name, serving._replace(phase="ready")))
            elif serving.phase == "stopping":
                yield Move(f"{name} is gone", _serve(state, name, None))

    def _gone(self, state: State) -> set[str]:
        """Models whose weights were removed."""
        done = [self.workloads[work.number] for work in state.works if work.phase == "Succeeded"]
        configurations = [item.configurations[0] for item in done]
        return {config.models[0].uri for config in configurations if isinstance(config, PruneStage)}

    def _toggle(self, state: State) -> Move:
        """Suspend the run, or resume it."""
        version = dict(state.objects)[self.root]
        run = self.versions[version]
        suspend = not run.spec.suspend
        changed = run.model_copy(update={"spec": run.spec.model_copy(update={"suspend": suspend})})
        after = self._set(state, self.root, self._version(_next_generation(changed)))
        name = "suspend" if suspend else "resume"
        return Move(name, after._replace(toggles=state.toggles - 1), good=not suspend)

    def _switch(self, state: State) -> Move:
        """Let weights go from now on, or keep them."""
        run = self.versions[dict(state.objects)[self.root]]
        retention = "Last" if run.spec.storage.retention == "All" else "All"
        storage = run.spec.storage.model_copy(update={"retention": retention})
        changed = run.model_copy(update={"spec": run.spec.model_copy(update={"storage": storage})})
        after = self._set(state, self.root, self._version(_next_generation(changed)))
        return Move(f"retention {retention}", after._replace(switches=state.switches - 1), good=False)

    def _lose(self, state: State) -> Iterator[Move]:
        """A status is lost: a backup without statuses is restored, say."""
        for key, version in state.objects:
            resource = self.versions[version]
            fresh = self._version(resource.model_copy(update={"status": type(resource.status)()}))
            if fresh != version:
                after = self._set(state, key, fresh)
                yield Move(f"{_ref(key)} loses its status", after._replace(losses=state.losses - 1), good=False)

    # --- plans -------------------------------------------------------------------------------------------------

    def decide(self, state: State, key: Key, version: int) -> int:
        """What the planner wants for an object now; the same view is planned once."""
        works = tuple(work for work in state.works if work.owner == key)
        serving = dict(state.serving).get(key[1]) if key[0] == "PolicyServer" else None
        uid = self.versions[version].metadata.uid
        children, peers = [], []
        for _, other in state.objects:
            resource = self.versions[other]
            if any(reference.uid == uid for reference in resource.metadata.owner_references):
                children.append(other)
            if resource.kind == "PolicyServer":
                peers.append(other)
        view = (version, works, serving, tuple(children), tuple(peers))
        if view not in self._planned:
            observed = Observed(
                tuple(self._work_state(work) for work in works),
                (self._server_state(serving),) if serving is not None else (),
                tuple(self.versions[number] for number in children),
                {self.versions[number].metadata.name: self.versions[number] for number in peers},
            )
            self._planned[view] = self._decision(self.versions[version], observed)
        return self._planned[view]

    def _decision(self, resource: Resource, observed: Observed) -> int:
        wanted = plan(resource, observed, NOW)
        decision = Decision(
            self._version(resource.model_copy(update={"status": wanted.status})),
            tuple(((child.kind, child.metadata.name), self._version(child)) for child in wanted.children),
            tuple(self._number(item.name, item, self.workloads) for item in wanted.workloads),
            wanted.stop,
            next((self._number(repr(item), item, self.servers) for item in wanted.servers), None),
        )
        self.decisions.append(decision)
        return len(self.decisions) - 1

    def carry_out(self, state: State, key: Key, decision: Decision) -> State:
        """The status, then the children, then what starts and stops."""
        state = self._set(state, key, decision.status)
        for child, wanted in decision.children:
            stored = dict(state.objects).get(child)
            pair = (stored, wanted)
            if pair not in self._applied:
                self._applied[pair] = self._apply(stored, wanted)
            state = self._set(state, child, self._applied[pair])
        known = {work.number for work in state.works}
        for number in decision.workloads:
            if number not in known:
                state = state._replace(works=tuple(sorted((*state.works, Work(number, key, "Pending")))))
        for index, work in enumerate(state.works):
            if self.workloads[work.number].name in decision.stop and work.phase != "Stopping":
                state = _put(state, index, work._replace(phase="Stopping", exit_class="TEMPORARY"))
        return self._serve(state, key[1], decision.server) if key[0] == "PolicyServer" else state

    def _serve(self, state: State, name: str, number: int | None) -> State:
        present = dict(state.serving).get(name)
        if number is None:
            return state if present is None else _serve(state, name, present._replace(phase="stopping"))
        if present is None or present.phase == "stopping" or present.number != number:
            return _serve(state, name, Serving(number, "loading"))
        return state

    def _apply(self, stored: int | None, wanted: int) -> int:
        new = self.versions[wanted]
        if stored is None:
            meta = new.metadata.model_copy(update={"uid": new.metadata.name, "generation": 1})
            return self._version(new.model_copy(update={"metadata": meta}))
        old = self.versions[stored]
        if old.spec == new.spec:
            return stored
        return self._version(_next_generation(old.model_copy(update={"spec": new.spec})))

    # --- values ------------------------------------------------------------------------------------------------

    def _set(self, state: State, key: Key, version: int) -> State:
        objects = dict(state.objects)
        if objects.get(key) == version:
            return state
        objects[key] = version
        return state._replace(objects=tuple(sorted(objects.items())))

    def _version(self, resource: Resource) -> int:
        resource = _without_times(resource)
        return self._number(resource.model_dump_json(), resource, self.versions)

    def _number(self, identity: Any, value: Any, among: list[Any]) -> int:
        known = self._numbers.get((id(among), identity))
        if known is None:
            among.append(value)
            known = self._numbers[(id(among), identity)] = len(among) - 1
        return known

    def _work_state(self, work: Work) -> WorkloadState:
        workload = self.workloads[work.number]
        phase = Phase.FAILED if work.phase == "Stopping" else Phase(work.phase)
        output = workload.configurations[0].output
        result: dict[str, Any] = {"output": output, "digest": f"sha256:{output}"}
        if workload.stage == "evaluate":
            result["accuracy"] = ACCURACY[output.split("/")[-2]]
        return WorkloadState(
            workload.name,
            workload.attempt,
            phase,
            exit_class=ExitClass[work.exit_class] if work.exit_class else None,
            result=result if phase is Phase.SUCCEEDED else None,
            gone=work.gone,
        )

    def _server_state(self, serving: Serving) -> ServerState:
        server = self.servers[serving.number]
        if serving.phase == "failed":
            return ServerState(server.name, failed=True, reason=FailureReason.WEIGHTS_PRUNED)
        if serving.phase != "ready":
            return ServerState(server.name, message=serving.phase)
        digest = server.digest or f"sha256:{server.model.uri}"
        return ServerState(server.name, ("http://server:8000",), ready=server.model.uri, digest=digest)

    # --- what tests ask ----------------------------------------------------------------------------------------

    def get(self, state: State, key: Key) -> Resource:
        return self.versions[dict(state.objects)[key]]

    def server(self, state: State) -> PolicyServer | None:
        """The run's server."""
        servers = (self.versions[version] for key, version in state.objects if key[0] == "PolicyServer")
        return next((item for item in servers if isinstance(item, PolicyServer)), None)

    def live(self, state: State) -> list[Workload]:
        """Workloads of which something is left."""
        return [self.workloads[work.number] for work in state.works if not work.gone]

    def training(self, state: State) -> list[str]:
        """Training Workloads that hold GPUs or wait for them."""
        return [item.name for item in self.live(state) if item.stage in TRAINING and item.gpus]

    def pruned(self, state: State) -> set[str]:
        """Models whose weights may be gone: a Workload that removes them was wanted."""
        attempts = self.get(state, self.root).status.attempts
        known = [key.removeprefix("prune-") for key, item in attempts.items() if key.startswith("prune-")]
        return {f"s3://bucket/runs/default/run/{name}" for name in known}

    def reading(self, state: State) -> list[tuple[str, str]]:
        """Whoever may still read a model's weights, and the model: children that have not ended, Workloads, servers."""
        readers = []
        for key, version in state.objects:
            item = self.versions[version]
            if key[0] in ("PreferenceGeneration", "ModelEvaluation", "StepDPOJob"):
                readers += [] if item.status.holds("Ready") else [(item.ref, item.spec.model.uri)]
        for workload in self.live(state):
            if workload.stage in READING:
                readers.append((workload.name, workload.configurations[0].model.uri))  # type: ignore[attr-defined]
        readers += [(name, self.servers[serving.number].model.uri) for name, serving in state.serving]
        return readers

    def serving(self, state: State) -> list[str]:
        """Servers that hold GPUs or wait for them."""
        return [name for name, serving in state.serving if self.servers[serving.number].gpus]


def _put(state: State, index: int, work: Work | None) -> State:
    works = list(state.works)
    works[index : index + 1] = [work] if work is not None else []
    return state._replace(works=tuple(works))


def _serve(state: State, name: str, serving: Serving | None) -> State:
    entries = {**dict(state.serving), name: serving}
    return state._replace(serving=tuple((key, value) for key, value in entries.items() if value is not None))


def _ref(key: Key) -> str:
    return "/".join(key)


def _next_generation(resource: Resource) -> Resource:
    meta = resource.metadata
    return resource.model_copy(update={"metadata": meta.model_copy(update={"generation": meta.generation + 1})})


def _bare(model: ModelStatus) -> ModelStatus:
    return ModelStatus(name=model.name, uri=model.uri, digest=model.digest)


def _without_times(resource: Resource) -> Resource:
    """The object without what no plan depends on: times, messages, reasons, the numbers of its generations.

    Of those it stays whether a failure, and a server's status, belong to the present one.
    """
    status, generation = resource.status, resource.metadata.generation
    observed = status.observed_generation == generation or resource.kind != "PolicyServer"
    fields: dict[str, Any] = {
        "conditions": [
            Condition(type=item.type, status=item.status, reason=item.reason * (item.reason == Reason.WEIGHTS_PRUNED))
            for item in status.conditions
        ],
        "observed_generation": PRESENT if observed else -1,
        "reason": "",
        "step": "",
        "progress": "",
    }
    if isinstance(status, WorkStatus):
        fields |= {"running_since": None, "pending_since": None, "active_seconds": 0.0}
        if status.failure is not None:
            present = PRESENT if status.failure.generation == generation else -1
            fields["failure"] = status.failure.model_copy(update={"message": "", "generation": present})
    if hasattr(status, "models"):
        kept = resource.spec.storage.retention != "All"
        fields["models"] = [_bare(item) for item in status.models] if kept else []
        fields["unpruned"] = {
            name: failure.model_copy(
                update={"message": "", "generation": PRESENT if failure.generation == generation else -1}
            )
            for name, failure in status.unpruned.items()
        }
    meta = resource.metadata.model_copy(update={"generation": PRESENT})
    return resource.model_copy(update={"status": status.model_copy(update=fields), "metadata": meta})
