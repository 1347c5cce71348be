"""Where the pods of an object run: one function for stages, reports and servers."""

from __future__ import annotations

from psr_operator.api import Resource
from psr_operator.api.common import Resources, Work
from psr_operator.api.pod import PodOverrides
from psr_operator.planner.inheritance import passed_on, storage_of
from psr_operator.planner.types import Placement


def placement(resource: Resource, resources: Resources, pod: PodOverrides | None) -> Placement:
    """The placement of an object's pods.

    Args:
        resources, pod: of these pods; an object may have several kinds of them.
    """
    spec = resource.spec
    return Placement(
        resources=resources,
        pod=pod,
        image=spec.image,
        storage=storage_of(resource) if spec.storage is not None else None,
        ttl_seconds=getattr(spec, "ttl_seconds_after_finished", None),
        labels=resource.metadata.labels,
        annotations=passed_on(resource.metadata.annotations),
    )


def placement_of_work(resource: Resource, *, gpus: bool = True) -> Placement:
    """The placement of an object whose pods are all alike. `gpus=False` for a task that needs none of its devices."""
    spec: Work = resource.spec
    resources = spec.resources if gpus else spec.resources.model_copy(update={"gpus": 0})
    return placement(resource, resources, spec.pod)
