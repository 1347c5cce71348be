"""The objects of a local run, in memory: applied, owned, with generation and status, as an apiserver would keep them.

A copy of each object is kept in the work folder for `psr wait` and for people. What is read back from it after a
restart is uids, and the status of finished work whose artefact is still there.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from psr_operator.api import PolicyServer, Resource
from psr_operator.api.common import WorkStatus
from psr_operator.api.keyed import Keyed
from psr_operator.api.manifest import ManifestError
from psr_runtime.config import MARK, Schema

Key = tuple[str, str]


class Store:
    """Objects by kind and name.

    Args:
        folder: work folder; None where no copies are kept.
        artefact_exists: whether the artefact of this digest is still at this URI.
    """

    def __init__(self, folder: Path | None, artefact_exists: Callable[[str, str], bool]) -> None:
        self._artefact_exists = artefact_exists
        self._folder = folder / "objects" if folder is not None else None
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
        self._objects: dict[Key, Resource] = {}

    def __iter__(self) -> Iterator[Resource]:
        return iter(list(self._objects.values()))

    def get(self, kind: str, name: str) -> Resource | None:
        return self._objects.get((kind, name))

    def children(self, parent: Resource) -> tuple[Resource, ...]:
        """The objects that `parent` owns."""
        uid = parent.metadata.uid
        return tuple(item for item in self if any(reference.uid == uid for reference in item.metadata.owner_references))

    def servers(self) -> dict[str, Resource]:
        """Every PolicyServer by name."""
        return {item.metadata.name: item for item in self if isinstance(item, PolicyServer)}

    def apply(self, wanted: Resource) -> bool:
        """Make an object exist with this spec. A changed spec raises its generation.

        Returns:
            Whether anything changed.

        Raises:
            ManifestError: a method field differs from what is stored.
        """
        key = (wanted.kind, wanted.metadata.name)
        stored = self._objects.get(key)
        if stored is None:
            kept = self._kept(wanted)
            meta = wanted.metadata.model_copy(update={"uid": self._uid(key), "generation": 1})
            self._put(kept or wanted.model_copy(update={"metadata": meta}))
            return True
        if stored.spec == wanted.spec:
            return False
        changed = changed_method_fields(stored.spec, wanted.spec)
        if changed:
            path, was, now = changed[0]
            raise ManifestError(
                f"{wanted.ref}: spec.{path} decides what is computed and cannot be changed; give the object another "
                f"name, or put it back: it was {_shown(was)} and is {_shown(now)} now"
            )
        meta = stored.metadata.model_copy(update={"generation": stored.metadata.generation + 1})
        self._put(stored.model_copy(update={"metadata": meta, "spec": wanted.spec}))
        return True

    def set_status(self, resource: Resource, status: Any) -> bool:
        """Store a status. Returns whether it differs from what was stored."""
        if resource.status == status:
            return False
        self._put(resource.model_copy(update={"status": status}))
        return True

    def _put(self, resource: Resource) -> None:
        self._objects[(resource.kind, resource.metadata.name)] = resource
        if self._folder is None:
            return
        path = self._folder / f"{resource.kind}-{resource.metadata.name}.json"
        temporary = path.with_suffix(".new")
        temporary.write_text(json.dumps(resource.to_json(), indent=1))
        os.replace(temporary, path)

    def _kept(self, wanted: Resource) -> Resource | None:
        """The object as an earlier run of this folder left it: finished, same spec, artefact still there."""
        document = self._copy(wanted.kind, wanted.metadata.name)
        if document is None:
            return None
        try:
            before = type(wanted).model_validate(document)
        except ValidationError:
            return None
        if before.spec != wanted.spec:  # parsed: fields that came later have their defaults in both
            return None
        status = before.status
        if not isinstance(status, WorkStatus) or not status.holds("Ready") or not (status.output and status.digest):
            return None
        return before if self._artefact_exists(status.output, status.digest) else None

    def _uid(self, key: Key) -> str:
        """The uid of an object of this work folder; the same again after a restart, so that storage stays ours."""
        try:
            return str((self._copy(*key) or {})["metadata"]["uid"])
        except (KeyError, TypeError):
            return str(uuid.uuid4())

    def _copy(self, kind: str, name: str) -> dict[str, Any] | None:
        """The copy of an object that an earlier run left."""
        return stored_object(self._folder.parent, kind, name) if self._folder is not None else None


def stored_object(folder: Path, kind: str, name: str) -> dict[str, Any] | None:
    """The copy of an object in a work folder, None where there is none (yet)."""
    try:
        document = json.loads((folder / "objects" / f"{kind}-{name}.json").read_text())
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) else None


def changed_method_fields(before: Any, after: Any, at: str = "") -> list[tuple[str, Any, Any]]:
    """Immutable fields that differ: dotted path, old and new value. Lists of a run's iterations may grow."""
    changed = []
    for name, field in type(before).model_fields.items():
        extra = field.json_schema_extra
        mark = extra.get(MARK) if isinstance(extra, Mapping) else None
        old, new = getattr(before, name), getattr(after, name)
        path = f"{at}.{field.alias or name}" if at else (field.alias or name)
        if old == new or mark == "operation":
            continue
        if name == "iterations" and isinstance(old, list) and new[: len(old)] == old:
            continue
        keyed = next((item for item in field.metadata if isinstance(item, Keyed)), None)
        if hasattr(type(old), "model_fields") and type(old) is type(new):
            changed += changed_method_fields(old, new, path)
        elif keyed and keyed.by_key(old).keys() == keyed.by_key(new).keys():
            for key, item in keyed.by_key(old).items():
                changed += changed_method_fields(item, keyed.by_key(new)[key], f"{path}[{key}]")
        else:
            changed.append((path, old, new))
    return changed


def _shown(value: Any) -> str:
    """A value of a field as a manifest has it."""
    if value is None:
        return "not set"
    return json.dumps(value, default=Schema.to_json, ensure_ascii=False)
