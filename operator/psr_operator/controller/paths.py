"""Where objects are found at the apiserver. No other module writes a path of its REST interface."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from psr_operator import api
from psr_operator.api import GROUP, VERSION
from psr_operator.backends.base import ObjectKind
from psr_operator.controller.workqueue import Key

KINDS: Mapping[str, tuple[str, str]] = {
    "ConfigMap": ("v1", "configmaps"),
    "Deployment": ("apps/v1", "deployments"),
    "Event": ("v1", "events"),
    "Lease": ("coordination.k8s.io/v1", "leases"),
    "Pod": ("v1", "pods"),
    "PodDisruptionBudget": ("policy/v1", "poddisruptionbudgets"),
    "ReplicaSet": ("apps/v1", "replicasets"),
    "Secret": ("v1", "secrets"),
    "Service": ("v1", "services"),
}
"""API version and plural of the kinds that the controller reads or writes beside ours. Back ends name theirs
(`ObjectKind`)."""


def group_version(api_version: str) -> str:
    """Where the apiserver lists the kinds of a version."""
    return f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"


def collection_of(kind: str | ObjectKind, namespace: str | None) -> str:
    """Path of the objects of a kind in a namespace, or in all of them."""
    if isinstance(kind, ObjectKind):
        api_version, plural = kind.api_version, kind.plural
    elif kind in api.KINDS:
        api_version, plural = f"{GROUP}/{VERSION}", api.KINDS[kind].plural
    else:
        api_version, plural = KINDS[kind]
    place = f"/namespaces/{namespace}" if namespace else ""
    return f"{group_version(api_version)}{place}/{plural}"


def object_path(kind: str | ObjectKind, namespace: str, name: str) -> str:
    """Path of one object."""
    return f"{collection_of(kind, namespace)}/{name}"


def path_of(key: Key, part: str = "") -> str:
    """Path of an object of ours, or of a part of it (`status`)."""
    path = object_path(key.kind, key.namespace, key.name)
    return f"{path}/{part}" if part else path


def kind_of(body: Mapping[str, Any], kinds: Mapping[tuple[str, str], ObjectKind]) -> str | ObjectKind:
    """The kind of an object that is to be created: a back end's, else one of `KINDS`."""
    name: str = body["kind"]
    return kinds.get((body["apiVersion"], name), name)
