"""`plan(object, observed, now) → Plan`: what is wanted next. Pure: no I/O, no clock, no client.

`kinds/` has one file a kind; what they share is beside it: the lifecycle of work with attempts, what children inherit,
who may hold GPUs, a run's models and their retention.
"""

from __future__ import annotations

from datetime import datetime

from psr_operator.api import Resource
from psr_operator.planner.kinds import PLANNERS
from psr_operator.planner.types import Observed, Plan


def plan(resource: Resource, observed: Observed, now: datetime) -> Plan:
    """What is wanted for one object.

    Args:
        resource: the object with its stored status.
        observed: what it owns and names.
        now: aware time.

    Raises:
        TypeError: nobody has registered a planner for its kind.
    """
    planner = PLANNERS.get(resource.kind)
    if planner is None:
        raise TypeError(f"{resource.kind}: there is no planner for this kind; planner.kinds.PLANNERS has none")
    return planner(resource, observed, now)


__all__ = ["plan"]
