"""The condition table (kstatus): one state of an object as its Ready, Reconciling, Stalled and Suspended conditions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any

from psr_operator.api.common import Condition, Resource
from psr_operator.reasons import AnyReason, Reason

MESSAGE_LENGTH = 1000


class State(Enum):
    """The rows of the table: value = (Ready, Reconciling, Stalled, Suspended)."""

    WORKING = ("False", "True", None, None)
    FAILED = ("False", None, "True", None)
    SUSPENDED = ("False", None, None, "True")
    IDLE = ("False", None, None, None)
    DONE = ("True", None, None, None)


TYPES = ("Ready", "Reconciling", "Stalled", "Suspended")


@dataclass(frozen=True)
class Summary:
    """The state of an object in short: a row of the table with reason and message (a sentence).

    Attributes:
        blocked: whether the message says what keeps the work from going on, so that parents repeat it.
    """

    state: State
    reason: AnyReason
    message: str = ""
    blocked: bool = False


@dataclass(frozen=True)
class Transition:
    """A change of state, to be reported once the status is stored: an event on Kubernetes, a line of `psr run`.

    Attributes:
        eventful: whether it is worth an event: an attempt failed, or the row of the table has changed for an object
            that no other one made. Conditions show the rest; of children that do well only the parent has events.
    """

    kind: str
    name: str
    warning: bool
    reason: AnyReason
    message: str
    eventful: bool = True


def status_fields(summary: Summary, resource: Resource, now: datetime) -> dict[str, Any]:
    """The fields of a status that say a summary: conditions, observedGeneration, reason, blocked."""
    generation = resource.metadata.generation
    return {
        "conditions": conditions(summary, resource.status.conditions, generation, now),
        "observed_generation": generation,
        "reason": str(summary.reason),
        "blocked": summary.message[:MESSAGE_LENGTH] if summary.blocked else None,
    }


def blocked_fields(resource: Resource, message: str) -> dict[str, Any]:
    """The fields of a status by which an object says, besides what it does, what keeps it from going on."""
    text = message[:MESSAGE_LENGTH]
    rows = [item.model_copy(update={"message": text}) for item in resource.status.conditions]
    return {"conditions": rows, "blocked": text}


def conditions(summary: Summary, before: Sequence[Condition], generation: int, now: datetime) -> list[Condition]:
    """The conditions of a summary of an object. `lastTransitionTime` moves only where the status does.

    Args:
        before: the conditions stored now.
        generation: generation of the spec that was looked at.
        now: aware time.
    """
    rows = []
    earlier: dict[str, Condition] = {item.type: item for item in before}
    for kind, status in zip(TYPES, summary.state.value, strict=True):
        if status is None:
            continue
        old = earlier.get(kind)
        since = old.last_transition_time if old is not None and old.status == status else _rfc3339(now)
        rows.append(
            Condition.model_validate(
                {
                    "type": kind,
                    "status": status,
                    "reason": str(summary.reason),
                    "message": summary.message[:MESSAGE_LENGTH],
                    "observedGeneration": generation,
                    "lastTransitionTime": since,
                }
            )
        )
    return rows


def transition(resource: Resource, summary: Summary) -> Transition | None:
    """What is worth reporting: reason or state differ from what is stored. None where nothing changed."""
    before = resource.status.conditions
    ready = next((item for item in before if item.type == "Ready"), None)
    stored = {item.type: item.status for item in before}
    wanted = {kind: status for kind, status in zip(TYPES, summary.state.value, strict=True) if status is not None}
    if ready is not None and ready.reason == summary.reason and stored == wanted:
        return None
    warning = summary.state is State.FAILED or summary.reason is Reason.RETRYING
    turned = stored != wanted and (bool(stored) or summary.state is not State.WORKING)
    eventful = warning or (turned and not resource.metadata.owner_references)
    return Transition(resource.kind, resource.metadata.name, warning, summary.reason, summary.message, eventful)


def _rfc3339(now: datetime) -> str:
    return now.strftime("%Y-%m-%dT%H:%M:%SZ")
