"""Objects as an apiserver keeps them: its JSON → models, models → what is to be applied.

Of an apiserver's metadata only what `Meta` has is read: managedFields, finalizers and long notes are not ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from psr_operator.api import KINDS, Resource
from psr_operator.api.common import GROUP, VERSION

LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
NOTE_LENGTH = 1024
"""Annotations longer than this are other people's notes; what PSR hands on to children is short."""


def parse(raw: Mapping[str, Any]) -> Resource:
    """Read a stored object.

    Args:
        raw: JSON values of one object, as an apiserver returns or sends them.

    Raises:
        pydantic.ValidationError: spec, status or metadata are none of this kind's.
        KeyError: no kind of PSR.
    """
    values = {key: value for key, value in raw.items() if key != "metadata"}
    return KINDS[raw["kind"]].model_validate({**values, "metadata": _metadata(raw.get("metadata") or {})})


def _metadata(raw: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: raw[key] for key in ("name", "namespace", "uid", "generation", "labels") if raw.get(key) is not None}
    kept["annotations"] = {
        key: value
        for key, value in (raw.get("annotations") or {}).items()
        if key != LAST_APPLIED and len(value) <= NOTE_LENGTH
    }
    kept["ownerReferences"] = [
        {key: reference[key] for key in ("kind", "name", "uid")} for reference in raw.get("ownerReferences") or []
    ]
    return kept


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
