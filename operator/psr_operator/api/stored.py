"""Objects as an apiserver keeps them: its JSON → models, models → what is to be applied.

Of an apiserver's metadata only what `Meta` has is read: managedFields, finalizers and long notes are not ours. Fields
that the models do not know are left out here, and stay where they are stored: the kinds of a cluster may be newer than
whoever reads them. What a user writes is read strictly, by the apiserver and by `manifest.py`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from psr_operator.api import KINDS, Resource
from psr_operator.api.common import GROUP, VERSION

M = TypeVar("M", bound=BaseModel)

LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
APISERVER_S = frozenset(
    {
        *("creationTimestamp", "deletionGracePeriodSeconds", "deletionTimestamp", "finalizers", "generateName"),
        *("managedFields", "ownerReferences", "resourceVersion", "selfLink", "uid", "generation"),
    }
)
"""Metadata that a manifest may have, from an apiserver, and that says nothing about what is wanted."""
NOTE_LENGTH = 1024
"""Annotations longer than this are other people's notes; what PSR hands on to children is short."""


def parse(raw: Mapping[str, Any]) -> Resource:
    """Read a stored object, without the fields that this version does not know.

    Args:
        raw: JSON values of one object, as an apiserver returns or sends them.

    Raises:
        pydantic.ValidationError: known fields of spec, status or metadata are none of this kind's.
        KeyError: no kind of PSR.
    """
    values = {key: value for key, value in raw.items() if key != "metadata"}
    values["metadata"] = _metadata(raw.get("metadata") or {})
    return read_leniently(KINDS[raw["kind"]], values)


def read_leniently(model: type[M], values: Mapping[str, Any]) -> M:
    """Stored JSON values as a model, without the fields that it does not know.

    Raises:
        pydantic.ValidationError: what it does know is wrong.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        unknown = [fault["loc"] for fault in error.errors() if fault["type"] == "extra_forbidden"]
        if not unknown:
            raise
        return model.model_validate(_without(values, unknown))


def _without(values: Mapping[str, Any], places: list[tuple[int | str, ...]]) -> Mapping[str, Any]:
    """A copy of JSON values without what stands at these places."""
    values = copy.deepcopy(dict(values))
    for *way, last in places:
        node: Any = values
        try:
            for part in way:
                node = node[part]
            del node[last]
        except (KeyError, IndexError, TypeError):
            continue  # pydantic names an alternative of a union there: the second reading says what is wrong
    return values


def readable_metadata(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata of a manifest without what an apiserver adds, so that what `kubectl get -o yaml` prints is read.

    What Kubernetes does not know either stays, and is refused.
    """
    kept = {key: value for key, value in raw.items() if key not in APISERVER_S}
    if isinstance(kept.get("annotations"), Mapping):
        kept["annotations"] = _short(kept["annotations"])
    return kept


def _metadata(raw: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: raw[key] for key in ("name", "namespace", "uid", "generation", "labels") if raw.get(key) is not None}
    kept["annotations"] = _short(raw.get("annotations") or {})
    kept["ownerReferences"] = [
        {key: reference[key] for key in ("kind", "name", "uid")} for reference in raw.get("ownerReferences") or []
    ]
    return kept


def _short(annotations: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: value
        for key, value in annotations.items()
        if key != LAST_APPLIED and not (isinstance(value, str) and len(value) > NOTE_LENGTH)
    }


def to_stored(resource: Resource) -> dict[str, Any]:
    """What is applied to make the object exist: no uid, no generation, no status.

    An owner reference says that the parent is the controller of the object.
    """
    document = resource.to_json()
    metadata = {key: document["metadata"][key] for key in ("name", "namespace")}
    metadata |= {key: document["metadata"][key] for key in ("labels", "annotations") if document["metadata"][key]}
    owners = [
        {"apiVersion": f"{GROUP}/{VERSION}", **reference, "controller": True}
        for reference in document["metadata"]["ownerReferences"]
    ]
    if owners:
        metadata["ownerReferences"] = owners
    return {
        "apiVersion": document["apiVersion"],
        "kind": document["kind"],
        "metadata": metadata,
        "spec": document["spec"],
    }
