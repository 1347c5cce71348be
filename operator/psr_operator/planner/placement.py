"""Where the pods of an object run: one function for stages, reports and servers, and what goes on to children."""

from __future__ import annotations

from collections.abc import Mapping

from psr_operator.api import Resource
from psr_operator.api.common import Resources, StorageSpec
from psr_operator.api.pod import PodOverrides
from psr_operator.api.run import RunStorage
from psr_operator.planner.types import Placement

QUEUES = ("kueue.x-k8s.io/", "scheduling.x-k8s.io/")
"""Annotations below these prefixes go through to children: queues, topology, pod groups."""


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


def storage_of(resource: Resource) -> StorageSpec:
    """How an object's work and its children reach the storage. What a run says of weights is for itself: its children
    do not change with it."""
    given: StorageSpec = resource.spec.storage
    if isinstance(given, RunStorage):
        return StorageSpec(**{name: getattr(given, name) for name in StorageSpec.model_fields})
    return given


def passed_on(annotations: Mapping[str, str]) -> dict[str, str]:
    """The annotations that an object hands to its children and their pods."""
    return {key: value for key, value in annotations.items() if key.startswith(QUEUES)}
