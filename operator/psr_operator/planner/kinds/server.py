"""PolicyServer: wanted while it is active; Ready when every replica has proved that it serves the model."""

from __future__ import annotations

from datetime import datetime

from psr_operator.api import PolicyServer
from psr_operator.conditions import State, Summary, status_fields, transition
from psr_operator.planner.endings import with_hanging
from psr_operator.planner.inheritance import own_pins
from psr_operator.planner.placement import placement
from psr_operator.planner.types import Observed, Plan, Server, ServerState
from psr_operator.reasons import Reason, reason_of_failure
from psr_runtime.config import StorageAccess


def plan_server(server: PolicyServer, observed: Observed, now: datetime) -> Plan:
    """The plan of a PolicyServer."""
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
            seed=spec.seed,
            pins=spec.pins or own_pins(server),
        )
        if spec.active
        else None
    )
    since = _pending_since(server, state, now)
    summary = _summary(server, state)
    summary, again = _in_time(server, state, summary, since, now)
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
            "pending_since": since,
            "step": str(summary.reason),
        }
    )
    return Plan(
        status=status,
        servers=(wanted,) if wanted is not None else (),
        transition=transition(server, summary),
        again_after=again,
    )


def _pending_since(server: PolicyServer, state: ServerState | None, now: datetime) -> float | None:
    """Since when pods of a wanted server have waited for a node or their start; None while none does, or unbounded."""
    counts = server.spec.active and server.spec.scheduling_deadline_seconds is not None
    if not counts or state is None or not state.pending:
        return None
    before = server.status.pending_since
    return before if before is not None else now.timestamp()


def _in_time(
    server: PolicyServer, state: ServerState | None, summary: Summary, since: float | None, now: datetime
) -> tuple[Summary, float | None]:
    """The summary with what has taken too long: a pod that does not go, or does not start. And when to look again.

    A server that was too late is Stalled only as long as it waits: it may still get its node.
    """
    if state is not None and summary.state is State.WORKING:
        summary, again = with_hanging(summary, [state], now)
    else:
        again = None
    limit = server.spec.scheduling_deadline_seconds
    if since is None or limit is None or summary.state is not State.WORKING:
        return summary, again
    left = limit - (now.timestamp() - since)
    if left > 0:
        return summary, left if again is None else min(again, left)
    message = f"its pods did not start within schedulingDeadlineSeconds ({limit}): {summary.message}"
    return Summary(State.FAILED, Reason.SCHEDULING_DEADLINE_EXCEEDED, message, blocked=True), again


def _summary(server: PolicyServer, state: ServerState | None) -> Summary:
    spec = server.spec
    if not spec.active:
        if state is None or state.gone:
            return Summary(State.IDLE, Reason.IDLE, "released; nothing of it is left")
        return Summary(State.WORKING, Reason.RELEASING, "waiting for the server to end")
    if state is not None and state.failed:
        reason = reason_of_failure(state.reason) if state.reason is not None else Reason.SERVER_FAILED
        return Summary(State.FAILED, reason, state.message)
    if state is not None and state.ready not in (None, spec.model.uri):
        return Summary(State.WORKING, Reason.LOADING, f"exchanges {state.ready} for {spec.model.uri}")
    if state is None or state.ready is None:
        reason = Reason.PENDING if state is not None and state.pending and state.blocked else Reason.LOADING
        blocked = state is not None and state.blocked
        return Summary(State.WORKING, reason, state.message if state is not None else "starting", blocked)
    if spec.model_digest is not None and state.digest != spec.model_digest:
        message = f"serves {state.digest}, wanted is {spec.model_digest}"
        return Summary(State.WORKING, Reason.LOADING, message)
    return Summary(State.DONE, Reason.SERVING, f"serves {spec.model.uri}")
