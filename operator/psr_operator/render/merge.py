"""One object merged into another: maps deeply, named lists by name, everything else replaced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

KEYS = {
    "env": "name",
    "volumes": "name",
    "volumeMounts": "mountPath",
    "resourceClaims": "name",
    "imagePullSecrets": "name",
}
"""Lists that are merged by a field of their items. A mount is known by its path: one volume may appear at several."""

WHOLE = frozenset({"affinity"})
"""Maps that are replaced as a whole: parts of two affinities are neither of them."""


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A new map: `base` with `changes` merged in. Neither is changed; lists keep the order of `base` first.

    An item of a named list takes the place of the one with its name and is not merged into it: a variable has a value
    or a source, never half of each.
    """
    merged = dict(base)
    for key, value in changes.items():
        before = merged.get(key)
        if isinstance(value, Mapping) and isinstance(before, Mapping) and key not in WHOLE:
            merged[key] = merge(before, value)
        elif key in KEYS and isinstance(before, Sequence):
            merged[key] = _by_key([*before, *value], KEYS[key])
        else:
            merged[key] = value
    return merged


def _by_key(items: Sequence[Mapping[str, Any]], key: str) -> list[Mapping[str, Any]]:
    """The last item of each name, at the place of the first."""
    return list({item[key]: item for item in items}.values())
