"""What parents share: how an object is described by the child that it waits for."""

from __future__ import annotations

from psr_operator.api import Resource
from psr_operator.api.common import Condition
from psr_operator.conditions import State, Summary
from psr_operator.reasons import Reason, reason_of

AT_WORK = "its children are at work"
SUSPENDED = Summary(State.SUSPENDED, Reason.SUSPENDED, "suspended; set suspend: false to go on")


def child_summary(child: Resource | None, reason: Reason, suspend: bool) -> Summary:
    """The summary of a parent.

    Args:
        child: that it waits for; None for one that is not there yet.
        reason: of the parent while the child works.
        suspend: whether the parent is to be suspended.
    """
    if child is None:
        return SUSPENDED if suspend else Summary(State.WORKING, reason, AT_WORK)
    ready = child.status.condition("Ready")
    message = AT_WORK
    if ready is not None and (child.status.holds("Stalled") or child.status.blocked or _is_repeated(child, ready)):
        message = f"{child.ref}: {ready.message}"
    if child.status.holds("Stalled") and ready is not None:
        return Summary(State.FAILED, reason_of(ready.reason), message)
    if suspend:
        return SUSPENDED
    return Summary(State.WORKING, reason, message, blocked=child.status.blocked is not None)


def has_ended(child: Resource) -> bool:
    """Whether a child is Ready or Stalled."""
    return bool(child.status.holds("Ready") or child.status.holds("Stalled"))


def _is_repeated(child: Resource, ready: Condition) -> bool:
    """Whether a parent repeats the message of a child that nothing blocks. Any other would change it too often."""
    if child.kind == "SelfRewardIteration":
        return ready.message != AT_WORK
    return ready.reason in (Reason.RETRYING, Reason.WAITING_FOR_GPUS)
