"""What every kind of `Work` shares: one lifecycle from its spec, stage configurations from its fields, one plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from psr_operator.api import Resource
from psr_operator.api.common import Work
from psr_operator.conditions import status_fields, transition
from psr_operator.planner.inheritance import output_of, owner_of
from psr_operator.planner.lifecycle import Lifecycle, Task, advance
from psr_operator.planner.names import base_name
from psr_operator.planner.record import put_record, take_record
from psr_operator.planner.results import Results
from psr_operator.planner.types import Observed, Plan
from psr_runtime.config import Schema


def plan_work(
    resource: Resource, tasks: Sequence[Task], summary: Callable[[Results], str], observed: Observed, now: datetime
) -> Plan:
    """The plan of an object that is nothing but its tasks, one after the other.

    Args:
        summary: message of the finished object, from the results of its tasks.
    """
    spec: Work = resource.spec
    lifecycle = Lifecycle(
        name=base_name(resource),
        generation=resource.metadata.generation,
        tasks=tasks,
        summary=summary,
        suspend=spec.suspend,
        retries=spec.retries,
        deadline=spec.active_deadline_seconds,
        scheduling_deadline=spec.scheduling_deadline_seconds,
        rerun=spec.rerun,
    )
    decision = advance(lifecycle, take_record(resource.status), observed, now)
    status = put_record(resource.status, decision.record)
    return Plan(
        status=status.model_copy(update=status_fields(decision.summary, resource, now)),
        workloads=(decision.workload,) if decision.workload else (),
        stop=decision.stop,
        transition=transition(resource, decision.summary),
        again_after=decision.again_after,
    )


def stage_fields(resource: Resource) -> dict[str, Any]:
    """The fields of every stage configuration: where the output goes, how the storage is reached, and whose it is."""
    return {
        "output": output_of(resource),
        "storage": resource.spec.storage.access(),
        "owner": owner_of(resource),
    }


def method_fields(resource: Resource, method: type[Schema]) -> dict[str, Any]:
    """The fields that a spec shares with its stage's configuration."""
    return {name: getattr(resource.spec, name) for name in method.model_fields}
