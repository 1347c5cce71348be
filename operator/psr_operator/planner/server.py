"""PolicyServer: which model a server serves and when it may be there.

`intent` is where the rule stands that within a run at most one of {server, training} holds GPUs, and that a server's
model moves only when nobody reads from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from psr_operator.api import Meta, OwnerReference, PolicyServer, Resource
from psr_operator.api.common import StorageSpec
from psr_operator.api.server import PolicyServerSpec, ServerTemplate
from psr_operator.conditions import State, Summary, status_fields, transition
from psr_operator.planner.names import child_name
from psr_operator.planner.placement import passed_on, placement
from psr_operator.planner.types import Observed, Plan, Server, ServerState
from psr_operator.reasons import Reason, reason_of_failure
from psr_runtime.config import ModelSource, StorageAccess
from psr_runtime.errors import WEIGHTS_PRUNED


def plan_server(server: PolicyServer, observed: Observed, now: datetime) -> Plan:
    """A server is wanted while it is active; it is Ready when every replica proved that it serves the model."""
    spec = server.spec
    name = server.metadata.name
    state = next((item for item in observed.servers if item.name == name), None)
    wanted = (
        Server(
            name=name,
            model=spec.model,
            digest=spec.model_digest,
            engine=spec.engine,
            storage=spec.storage.access() if spec.storage else StorageAccess(),
            replicas=spec.replicas,
            port=spec.port,
            placement=placement(server, spec.resources, spec.pod),
        )
        if spec.active
        else None
    )
    summary = _summary(server, state)
    ready = summary.state is State.DONE and state is not None
    status = server.status.model_copy(
        update={
            **status_fields(summary, server, now),
            "endpoints": list(state.endpoints) if state is not None and ready else [],
            "model": state.ready if state is not None and ready else None,
            "digest": state.digest if state is not None and ready else None,
            # Stored before the server is made: training that is planned in between must not find it False.
            "holds_gpus": spec.resources.gpus > 0 and (spec.active or (state is not None and not state.gone)),
            "image": state.image if state is not None and not state.gone else None,
            "step": summary.reason,
        }
    )
    return Plan(
        status=status,
        servers=(wanted,) if wanted is not None else (),
        transition=transition(server, summary),
    )


def _summary(server: PolicyServer, state: ServerState | None) -> Summary:
    spec = server.spec
    if not spec.active:
        if state is None or state.gone:
            return Summary(State.IDLE, "Idle", "released; nothing of it is left")
        return Summary(State.WORKING, "Releasing", "waiting for the server to end")
    if state is not None and state.failed:
        reason = reason_of_failure(state.reason) if state.reason is not None else Reason.SERVER_FAILED
        return Summary(State.FAILED, reason, state.message)
    if state is not None and state.ready not in (None, spec.model.uri):
        return Summary(State.WORKING, "Loading", f"exchanges {state.ready} for {spec.model.uri}")
    if state is None or state.ready is None:
        return Summary(State.WORKING, "Loading", state.message if state is not None else "starting")
    if spec.model_digest is not None and state.digest != spec.model_digest:
        return Summary(State.WORKING, "Loading", f"serves {state.digest}, wanted is {spec.model_digest}")
    return Summary(State.DONE, "Serving", f"serves {spec.model.uri}")


def misses_pruned(server: Resource, model: str, prefix: str) -> bool:
    """Whether a server cannot serve a model since the weights were pruned by the very run whose prefix this is.

    Whoever reads a model is done before its weights go. So one that asks for it again has only lost its status: its
    stage finds the result, and needs no server for that.
    """
    stalled = server.status.condition("Stalled")
    return (
        stalled is not None
        and server.spec.model.uri == model
        and model.startswith(f"{prefix}/")
        and (stalled.reason == Reason.WEIGHTS_PRUNED or WEIGHTS_PRUNED in stalled.message)
    )


@dataclass(frozen=True)
class Reader:
    """A model that somebody still wants to read from: an unfinished generation or evaluation of it."""

    model: ModelSource
    digest: str | None


@dataclass(frozen=True)
class Intent:
    """What a server shall do."""

    model: ModelSource
    digest: str | None
    active: bool


def intent(
    server: PolicyServer | None,
    template: ServerTemplate,
    readers: Sequence[Reader],
    *,
    training: bool,
    training_gpus: int,
    suspended: bool,
) -> Intent | None:
    """What the server of a run shall do, so that no two stages ever wait for each other's GPUs.

    - It serves whoever reads from its present model; else the oldest model with a reader.
    - It is let go when nobody reads (unless it is kept), and when the run is suspended.
    - Once let go it comes back only when no training is unfinished: training waits for the server to be gone, and
      then always ends.

    Args:
        server: as it is now, None before it exists.
        template: how the run wants it.
        readers: oldest model first.
        training: whether a training child is unfinished.
        training_gpus: GPUs of training pods.

    Returns:
        None while there is no server and nobody to serve.
    """
    exclusive = template.resources.gpus > 0 and training_gpus > 0
    keep = template.idle == "Keep" and not (exclusive and training)
    if server is None:
        if not readers or suspended:
            return None
        return Intent(readers[0].model, readers[0].digest, active=not (exclusive and training))
    here = server.spec
    present = [reader for reader in readers if reader.model.uri == here.model.uri]
    target = present[0] if present else readers[0] if readers else Reader(here.model, here.model_digest)
    if suspended:
        active = False
    elif readers:
        active = here.active or not (exclusive and training)
    else:
        active = here.active and keep
    return Intent(target.model, target.digest, active)


def child_server(
    parent: Resource, name: str, template: ServerTemplate, storage: StorageSpec, wanted: Intent
) -> PolicyServer:
    """The PolicyServer object of a parent."""
    return PolicyServer(
        metadata=child_meta(parent, name),
        spec=PolicyServerSpec(
            **{key: getattr(template, key) for key in ServerTemplate.model_fields},
            model=wanted.model,
            model_digest=wanted.digest,
            active=wanted.active,
            storage=storage,
        ),
    )


def own_server(resource: Resource) -> PolicyServer:
    """The server that a leaf with `server.inline` brings for itself."""
    spec = resource.spec
    template = spec.server.inline or ServerTemplate()
    name = child_name(resource.metadata.name, "server")
    return child_server(resource, name, template, spec.storage, Intent(spec.model, None, active=True))


def child_meta(parent: Resource, name: str) -> Meta:
    """Metadata of a child: same namespace, owned by the parent, labels and what belongs to queues handed on."""
    meta = parent.metadata
    reference = OwnerReference(kind=parent.kind, name=meta.name, uid=meta.uid)
    return Meta(
        name=name,
        namespace=meta.namespace,
        owner_references=[reference],
        labels=meta.labels,
        annotations=passed_on(meta.annotations),
    )
