"""Who may hold devices: within a run at most one of {server, training}; and when the model of a server moves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psr_operator.api import PolicyServer, Resource
from psr_operator.api.server import ServerTemplate
from psr_operator.conditions import State, Summary
from psr_operator.planner.types import Observed
from psr_operator.reasons import Reason
from psr_runtime.config import ModelSource


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
    - It is released when nobody reads (unless it is kept), and when the run is suspended.
    - Once released it comes back only when no training is unfinished: training waits for the server to be gone, and
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


def until_released(observed: Observed, server: str | None, gpus: int) -> Summary | None:
    """Why training with GPUs waits: the run's server holds some. None when it may start."""
    if server is None or gpus == 0:
        return None
    peer = observed.peers.get(server)
    if not isinstance(peer, PolicyServer) or peer.spec.resources.gpus == 0:
        return None
    if peer.spec.active or peer.status.holds_gpus or not _is_current(peer):
        why = f": {peer.status.blocked}" if peer.status.blocked is not None else ""
        message = f"PolicyServer/{server} still holds its GPUs{why}"
        return Summary(State.WORKING, Reason.WAITING_FOR_GPUS, message, blocked=bool(why))
    return None


def until_unloaded(server: Resource | None, model: ModelSource) -> PolicyServer | None:
    """The server that may still load a model; None when none does.

    One that is wanted with another model does not once every replica serves that, one that is not wanted once nothing
    of it is left.
    """
    if not isinstance(server, PolicyServer):
        return None
    spec, status = server.spec, server.status
    gone = not spec.active and not status.holds("Reconciling")
    elsewhere = spec.active and spec.model.uri != model.uri and status.model == spec.model.uri
    return None if _is_current(server) and (gone or elsewhere) else server


def _is_current(server: PolicyServer) -> bool:
    """Whether a server's status belongs to its present spec, not to an earlier one."""
    return server.status.observed_generation == server.metadata.generation
