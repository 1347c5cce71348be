"""What the kinds that ask a server share: which one, whether it serves their model, and one of their own."""

from __future__ import annotations

from dataclasses import replace

from psr_operator.api import ModelEvaluation, PolicyServer, PreferenceGeneration, Resource
from psr_operator.conditions import State, Summary
from psr_operator.planner.inheritance import child_server
from psr_operator.planner.names import base_name, child_name
from psr_operator.planner.types import Observed, Plan
from psr_operator.reasons import Reason, reason_of
from psr_runtime.config import Endpoint

Asking = PreferenceGeneration | ModelEvaluation

NOBODY = Endpoint(urls=["http://127.0.0.1:1"], ready_seconds=1)
"""The endpoint of work that cannot start yet, or that will find its result without asking."""


def server_name(resource: Asking) -> str:
    """Name of the PolicyServer that an object asks: the one it refers to, or its own."""
    return resource.spec.server.ref or child_name(base_name(resource), "server")


def endpoint_of(resource: Asking, observed: Observed) -> tuple[Endpoint, Summary | None]:
    """The endpoint to ask, and why it cannot be asked yet (None when it can)."""
    name, model = server_name(resource), resource.spec.model
    peer = observed.peers.get(name) or observed.child("PolicyServer", name)
    if not isinstance(peer, PolicyServer):
        return NOBODY, _waiting(f"there is no PolicyServer/{name} yet")
    if resource.spec.owner is not None and misses_pruned(peer, model.uri, resource.spec.owner.uri):
        return NOBODY, None
    stalled = peer.status.condition("Stalled")
    if stalled is not None and stalled.status == "True":
        if resource.spec.server.inline is not None:
            return NOBODY, Summary(State.FAILED, reason_of(stalled.reason), f"{peer.ref}: {stalled.message}")
        return NOBODY, _waiting(f"{peer.ref} is stalled: {stalled.message}")
    if not peer.status.endpoints or peer.status.model != model.uri:
        if peer.status.blocked is not None:
            return NOBODY, replace(_waiting(f"{peer.ref}: {peer.status.blocked}"), blocked=True)
        return NOBODY, _waiting(f"{peer.ref} does not serve {model.uri} yet")
    return Endpoint(urls=peer.status.endpoints, model_digest=peer.status.digest), None


def misses_pruned(server: Resource, model: str, prefix: str) -> bool:
    """Whether a server cannot serve a model since the weights were pruned by the very run whose prefix this is.

    Whoever reads a model has ended before its weights go. So one that asks for it again has only lost its status: its
    stage finds the result, and needs no server for that.
    """
    stalled = server.status.condition("Stalled")
    return (
        stalled is not None
        and server.spec.model.uri == model
        and model.startswith(f"{prefix}/")
        and stalled.reason == Reason.WEIGHTS_PRUNED
    )


def with_own_server(resource: Asking, plan: Plan) -> Plan:
    """Add the server that the object brings for itself, wanted until the work is done."""
    template = resource.spec.server.inline
    if template is None:
        return plan
    status = plan.status
    ended = status.holds("Ready") or status.failure is not None or status.holds("Suspended")
    server = child_server(resource, server_name(resource), template, resource.spec.model, active=not ended)
    return replace(plan, children=(*plan.children, server))


def _waiting(message: str) -> Summary:
    return Summary(State.WORKING, Reason.WAITING_FOR_SERVER, message)
