"""What every rendered object is known by: labels, annotations, the reference to its owner."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from psr_operator.api.common import Resource

MANAGED_BY = "psr"
"""Value of `LABEL_MANAGED_BY` on everything that is rendered."""
OURS = "psr.dev/"
"""Keys below this prefix are the operator's; a manifest's own are left out."""

LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"
LABEL_COMPONENT = "app.kubernetes.io/component"
LABEL_KIND = "psr.dev/kind"
LABEL_NAME = "psr.dev/name"
LABEL_UID = "psr.dev/uid"
LABEL_WORKLOAD = "psr.dev/workload"
LABEL_ATTEMPT = "psr.dev/attempt"
LABEL_STAGE = "psr.dev/stage"
LABEL_SERVER = "psr.dev/server"
LABEL_INDEX = "batch.kubernetes.io/job-completion-index"
"""Kubernetes' own: the number of a pod among those of its Job."""

ANNOTATION_REVISION = "psr.dev/revision"
ANNOTATION_SERVER_HASH = "psr.dev/server-hash"
"""On a Deployment: `server_hash` of the value that it was made from."""
ANNOTATION_MODEL_HASH = "psr.dev/model-hash"
"""On a Deployment: `model_hash` of the value that its ConfigMap was made from."""
ANNOTATION_KEY_HASH = "psr.dev/key-hash"
"""On a server's pods whose key was lost: another one rolls them."""
ANNOTATION_SERVE_HASH = "psr.dev/serve-hash"
"""On a server's pods: what they read from the ConfigMap besides the model; another value rolls them."""


def owner_reference(owner: Resource) -> dict[str, Any]:
    """The reference by which the garbage collector removes an object with its owner."""
    return {
        "apiVersion": owner.api_version,
        "kind": owner.kind,
        "name": owner.metadata.name,
        "uid": owner.metadata.uid,
        "controller": True,
    }


def labels(owner: Resource, component: str, further: Mapping[str, str]) -> dict[str, str]:
    """Labels of an object and its pods.

    Args:
        component: `stage` or `server`.
        further: those of this component.
    """
    return {
        LABEL_MANAGED_BY: MANAGED_BY,
        LABEL_COMPONENT: component,
        LABEL_KIND: owner.kind,
        LABEL_NAME: owner.metadata.name,
        LABEL_UID: owner.metadata.uid,
        **further,
    }


def metadata(name: str, owner: Resource, own: Mapping[str, str], **more: Mapping[str, str]) -> dict[str, Any]:
    """Metadata of a rendered object.

    Args:
        own: its labels.
        more: `labels` and `annotations` that its owner passes on.
    """
    rendered: dict[str, Any] = {
        "name": name,
        "namespace": owner.metadata.namespace,
        "labels": {**foreign(more.get("labels", {})), **own},
        "ownerReferences": [owner_reference(owner)],
    }
    if more.get("annotations"):
        rendered["annotations"] = dict(more["annotations"])
    return rendered


def foreign(entries: Mapping[str, str]) -> dict[str, str]:
    """The labels or annotations that are not the operator's."""
    return {key: value for key, value in entries.items() if not key.startswith(OURS)}
