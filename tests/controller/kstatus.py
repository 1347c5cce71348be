"""How other programs read a status: kstatus (Flux, Argo CD, kpt, Helm), and `kubectl wait`.

Written from what the kstatus document of sigs.k8s.io/cli-utils says of custom resources; none of its code is here.

| in this order | status |
| --- | --- |
| there is no such object | NotFound |
| it has a deletionTimestamp | Terminating |
| status.observedGeneration is there and is not metadata.generation | InProgress |
| Reconciling is True | InProgress |
| Stalled is True | Failed |
| Ready is True | Current |
| Ready is anything else | InProgress |
| there is no Ready condition | Current |

The last row is the trap: an object that no controller has seen yet is taken for done, unless its status says that it
belongs to another generation. That is why PSR's definitions have -1 as the default of status.observedGeneration.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

from psr_operator.conditions import State

Object = Mapping[str, Any]


class KStatus(Enum):
    """What kstatus makes of an object."""

    IN_PROGRESS = "InProgress"
    FAILED = "Failed"
    CURRENT = "Current"
    TERMINATING = "Terminating"
    NOT_FOUND = "NotFound"


EXPECTED = {
    State.WORKING: KStatus.IN_PROGRESS,
    State.FAILED: KStatus.FAILED,
    # Not done, and not broken either: whoever waits for the object waits until it is resumed.
    State.SUSPENDED: KStatus.IN_PROGRESS,
    # A server that was let go serves nobody, and comes back by itself: whoever waits for it goes on waiting.
    State.IDLE: KStatus.IN_PROGRESS,
    State.DONE: KStatus.CURRENT,
}
"""What each row of the condition table must be to kstatus."""


def compute(item: Object | None) -> KStatus:
    """The status of a custom resource.

    Args:
        item: its JSON values as stored, None for one that is not there.
    """
    if item is None:
        return KStatus.NOT_FOUND
    meta, status = item["metadata"], item.get("status") or {}
    if meta.get("deletionTimestamp") is not None:
        return KStatus.TERMINATING
    seen = status.get("observedGeneration")
    if seen is not None and seen != meta.get("generation"):
        return KStatus.IN_PROGRESS
    statuses = conditions_of(item)
    if statuses.get("Reconciling") == "True":
        return KStatus.IN_PROGRESS
    if statuses.get("Stalled") == "True":
        return KStatus.FAILED
    if "Ready" not in statuses:
        return KStatus.CURRENT
    return KStatus.CURRENT if statuses["Ready"] == "True" else KStatus.IN_PROGRESS


def flux_says(items: list[Object | None]) -> str:
    """What Flux's `wait` and `healthChecks` make of objects: `healthy`, `unhealthy` at once, or `waiting`.

    One object that failed is enough to end the waiting; an object that is not there, or is going, is waited for.
    """
    statuses = {compute(item) for item in items}
    if KStatus.FAILED in statuses:
        return "unhealthy"
    return "healthy" if statuses <= {KStatus.CURRENT} else "waiting"


def kubectl_wait(item: Object | None, kind: str = "Ready") -> bool:
    """Whether `kubectl wait --for=condition=KIND` would end with success now.

    A condition whose generation (its own, else that of the status) is behind the object's is not believed. Neither
    kstatus nor Stalled is looked at, so it waits on for an object that has failed.
    """
    if item is None:
        return False
    status = item.get("status") or {}
    for condition in status.get("conditions") or ():
        if condition["type"].lower() == kind.lower():
            seen = condition.get("observedGeneration", status.get("observedGeneration"))
            behind = seen is not None and seen < item["metadata"].get("generation", 0)
            return not behind and bool(condition["status"].lower() == "true")
    return False


def state_of(item: Object) -> State | None:
    """The row of the condition table that an object's conditions are; None for a new object without any.

    Raises:
        AssertionError: they are no row.
    """
    statuses = conditions_of(item)
    if not statuses:
        return None
    row = tuple(statuses.get(kind) for kind in ("Ready", "Reconciling", "Stalled", "Suspended"))
    rows = {state.value: state for state in State}
    assert row in rows, f"Ready, Reconciling, Stalled, Suspended = {row} is no row of the condition table"
    return rows[row]  # type: ignore[index]


def expected(item: Object) -> KStatus:
    """What kstatus must say of an object of PSR, by the condition table."""
    state = state_of(item)
    if item["metadata"].get("deletionTimestamp") is not None:
        return KStatus.TERMINATING
    if state is None or item["status"]["observedGeneration"] != item["metadata"]["generation"]:
        return KStatus.IN_PROGRESS
    return EXPECTED[state]


def conditions_of(item: Object) -> dict[str, str]:
    """Status of each condition by its type."""
    return {condition["type"]: condition["status"] for condition in (item.get("status") or {}).get("conditions") or ()}
