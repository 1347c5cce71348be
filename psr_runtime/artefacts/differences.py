"""What decides that a configuration asks for another result than the one that is there, by name and with both values.

A digest says that two configurations differ, not in what. A finished artefact has its configuration in the manifest;
beside half-done work stands `begun.json`, as long as that work is half-done.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from psr_runtime.artefacts.manifest import InputEntry, Manifest
from psr_runtime.config import StageConfig, method_fields
from psr_runtime.protocol.errors import DataError, StageError
from psr_runtime.storage import NotFound, Storage, join

BEGUN = "begun.json"
"""Beside the work of a stage until its manifest stands; not part of the artefact."""
OPERATIONS = frozenset({"storage", "owner", "server"})
"""Fields of a configuration that say where and by whom: not kept, as they may hold addresses of a cluster."""
VALUE_LENGTH = 80


class OtherConfiguration(DataError):
    """An output, or a log of half-done work, belongs to another configuration.

    Args:
        uri: of the artefact or the log.
        present, wanted: digests of what is there and of what is asked for; said where nothing can be named.
        changes: what differs, a phrase each.
    """

    def __init__(self, uri: str, present: str, wanted: str, changes: tuple[str, ...] = ()) -> None:
        self.uri, self.present, self.wanted = uri, present, wanted
        what = f": {', '.join(changes)}" if changes else f" ({present}, this one is {wanted})"
        super().__init__(
            f"{uri}: holds the result of another configuration{what}; "
            "give the object another name or output, or set rerun where it has one"
        )

    def naming(self, changes: tuple[str, ...]) -> OtherConfiguration:
        """The same error with names in place of digests."""
        return OtherConfiguration(self.uri, self.present, self.wanted, changes)


class Begun(BaseModel):
    """What work was begun with."""

    model_config = ConfigDict(frozen=True)
    digest: str
    schema_version: int
    configuration: dict[str, Any]
    inputs: dict[str, InputEntry]

    @classmethod
    def of(cls, manifest: Manifest) -> Begun:
        """What a finished artefact was made with."""
        return cls.model_validate(manifest.model_dump(include=set(cls.model_fields)))


def kept_configuration(config: StageConfig) -> dict[str, Any]:
    """A configuration as manifests keep it: JSON values, without what says where and by whom."""
    return config.model_dump(mode="json", by_alias=True, exclude=set(OPERATIONS))


def write_begun(storage: Storage, output: str, begun: Begun) -> None:
    """Note what work below `output` is begun with. The first one's note stands."""
    storage.create(join(output, BEGUN), begun.model_dump_json(indent=1).encode())


def forget_begun(storage: Storage, output: str) -> None:
    """Remove the note of work that left nothing below `output`: nobody will ask what it was begun with."""
    with contextlib.suppress(StageError):  # whoever calls this has a failure of its own to tell
        if [item.uri for item in storage.list(output)] == [join(output, BEGUN)]:
            storage.delete(join(output, BEGUN))


def read_begun(storage: Storage, output: str) -> Begun | None:
    """What the work below `output` was begun with; None where nobody noted it (an earlier version began it)."""
    try:
        return Begun.model_validate_json(storage.read(join(output, BEGUN)))
    except (NotFound, ValidationError):
        return None


def differences(config: StageConfig, inputs: Mapping[str, InputEntry], schema: int, begun: Begun) -> tuple[str, ...]:
    """What differs between a configuration and that of earlier work; empty where that cannot be said.

    Args:
        config: of now.
        inputs: of now, with their digests.
        schema: version of what the stage computes now.
        begun: the earlier work.
    """
    if begun.schema_version != schema:
        return (f"a version of PSR that computes it otherwise made it (schema {schema}, was {begun.schema_version})",)
    if not begun.configuration:
        return ()
    now = config.model_dump(mode="json", by_alias=True)
    try:
        before = type(config).model_validate({key: now[key] for key in OPERATIONS & now.keys()} | begun.configuration)
    except ValidationError:  # of a version with other fields
        return ()
    old, new = (dict(_leaves(method_fields(item))) for item in (before, config))
    changed = [
        f"{name} is {_shown(new.get(name))}, was {_shown(old.get(name))}"
        for name in dict.fromkeys([*new, *old])
        if new.get(name) != old.get(name)
    ]
    return (*changed, *_changed_inputs(inputs, begun.inputs))


def _changed_inputs(now: Mapping[str, InputEntry], before: Mapping[str, InputEntry]) -> Iterator[str]:
    for name in dict.fromkeys([*now, *before]):
        new, old = now.get(name), before.get(name)
        if new is None or old is None:
            yield f"{name} is {new.uri if new else 'not set'}, was {old.uri if old else 'not set'}"
        elif new.digest != old.digest:
            moved = f"{name} is {new.uri}, was {old.uri}"
            yield moved if new.uri != old.uri else f"the content of {name} ({new.uri}) has changed"


def _leaves(value: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted path and value of everything in a value that is no map, and of empty maps."""
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _leaves(item, f"{at}.{key}" if at else key)
    else:
        yield at, value


def _shown(value: Any) -> str:
    if value is None:
        return "not set"
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= VALUE_LENGTH else f"{text[:VALUE_LENGTH]}…"
