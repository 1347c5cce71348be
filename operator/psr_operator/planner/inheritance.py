"""What children inherit: owner, labels, the claim on the storage, how work is carried out; and where outputs go."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from psr_operator.api import Meta, OwnerReference, PolicyServer, Resource
from psr_operator.api.common import StorageSpec, Upkeep, Work
from psr_operator.api.run import RunStorage
from psr_operator.api.server import PolicyServerSpec, ServerTemplate
from psr_operator.planner.names import base_name
from psr_runtime.config import HUB, ModelSource, Owner
from psr_runtime.stages import STAGES

QUEUES = ("kueue.x-k8s.io/", "scheduling.x-k8s.io/")
"""Annotations below these prefixes go through to children: queues, topology, pod groups."""


def child_meta(parent: Resource, name: str) -> Meta:
    """Metadata of a child: same namespace, owned by the parent, labels and what belongs to queues handed on."""
    meta = parent.metadata
    reference = OwnerReference(kind=parent.kind, name=meta.name, uid=meta.uid)
    return Meta(
        name=name,
        namespace=meta.namespace,
        owner_references=[reference],
        labels=meta.labels,
        annotations=passed_on(meta.annotations),
    )


def passed_on(annotations: Mapping[str, str]) -> dict[str, str]:
    """The annotations that an object hands to its children and their pods."""
    return {key: value for key, value in annotations.items() if key.startswith(QUEUES)}


def handed_down(parent: Resource) -> dict[str, Any]:
    """What a working child takes from its parent as it is: the claim, the storage, and how work is carried out."""
    spec = parent.spec
    upkeep = {name: getattr(spec, name) for name in Upkeep.model_fields}
    return {"owner": owner_of(parent), "storage": storage_of(parent), **upkeep}


def storage_of(resource: Resource) -> StorageSpec:
    """How an object's work and its children reach the storage. What a run says of weights is for itself: its children
    do not change with it."""
    storage: StorageSpec = resource.spec.storage
    if isinstance(storage, RunStorage):
        return StorageSpec(**{name: getattr(storage, name) for name in StorageSpec.model_fields})
    return storage


def owner_of(resource: Resource) -> Owner:
    """The claim under which an object writes: its parent's, or its own."""
    meta = resource.metadata
    owner: Owner | None = getattr(resource.spec, "owner", None)
    return owner or Owner(uri=prefix_of(resource), uid=meta.uid, name=f"{meta.namespace}/{meta.name}")


def prefix_of(resource: Resource) -> str:
    """The storage prefix of an object: `<uri>/<namespace>/<name>`."""
    return f"{resource.spec.storage.uri.rstrip('/')}/{resource.metadata.namespace}/{base_name(resource)}"


def output_of(resource: Resource) -> str:
    """Where an object's artefact goes: as its spec says, else below the storage prefix in a folder that is called after
    what its last stage makes; `rerun` adds a folder."""
    spec: Work = resource.spec
    base = spec.output or f"{prefix_of(resource)}/{STAGES[resource.stages[-1]].makes}"
    return f"{base}/rerun-{spec.rerun}" if spec.rerun else base


def child_server(
    parent: Resource,
    name: str,
    template: ServerTemplate,
    model: ModelSource,
    *,
    digest: str | None = None,
    active: bool = True,
) -> PolicyServer:
    """The PolicyServer object of a parent, with the parent's seed: an unseeded engine starts every server of every run
    with the same first samples. Seed 0 is left out, as it is vLLM's own.

    Args:
        model, digest: that it serves.
        active: whether it is to be there now.
    """
    seed: int = getattr(parent.spec, "seed", 0)
    return PolicyServer(
        metadata=child_meta(parent, name),
        spec=PolicyServerSpec(
            **{key: getattr(template, key) for key in ServerTemplate.model_fields},
            model=model,
            model_digest=digest,
            seed=seed if seed > 0 else None,
            active=active,
            storage=storage_of(parent),
            pins=owner_of(parent).uri if model.uri.startswith(HUB) else None,
            scheduling_deadline_seconds=parent.spec.scheduling_deadline_seconds,
        ),
    )


def own_pins(server: PolicyServer) -> str | None:
    """Where a server that has no parent records which commit its model's URI means."""
    return prefix_of(server) if server.spec.storage is not None and server.spec.model.uri.startswith(HUB) else None
