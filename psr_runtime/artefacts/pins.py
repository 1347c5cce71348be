"""Which version a URI means that could move: resolved once for a piece of work, recorded, and the same from then on.

A branch of a hub may move while a run goes. Its first stage or server that reads a URI records the commit below the
run's storage prefix, in `versions/`, by a conditional put; whoever comes later takes what is recorded. So a branch that
moves neither changes nor blocks a run that has begun, and the manifests of its artefacts name the commit.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, TypeVar

from pydantic import BaseModel

from psr_runtime.config import MARK, ModelSource
from psr_runtime.protocol.errors import DataError
from psr_runtime.storage import NotFound, Storage, join

FOLDER = "versions"
C = TypeVar("C", bound=BaseModel)


def pinned(storage: Storage, uri: str, prefix: str) -> str:
    """The URI with its version fixed, as it was when the first one asked below `prefix`.

    Raises:
        InputMissing: there is no such thing.
        DataError: the record cannot be read.
        Interrupted: its store does not answer.
    """
    if not storage.moves(uri):
        return uri
    place = join(prefix, FOLDER, hashlib.sha256(uri.encode()).hexdigest()[:16] + ".json")
    try:
        record = storage.read(place)
    except NotFound:
        record = json.dumps({"uri": uri, "version": storage.resolve(uri)}).encode()
        if not storage.create(place, record):
            record = storage.read(place)
    try:
        document = json.loads(record)
        if document["uri"] == uri:
            return str(document["version"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{place}: no record of a version ({error}); remove it to take the present one") from error
    raise DataError(f"{place}: records {document['uri']} and not {uri}; remove it to take the present one")


def pinned_model(storage: Storage, source: ModelSource, prefix: str | None) -> ModelSource:
    """A model whose URI has its version fixed; unchanged where nobody says where to record it."""
    if prefix is None:
        return source
    return source.model_copy(update={"uri": pinned(storage, source.uri, prefix)})


def pinned_inputs(storage: Storage, config: C, prefix: str) -> C:
    """A configuration in which the URI of every input has its version fixed."""
    changed: dict[str, Any] = {}
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        mark = field.json_schema_extra.get(MARK) if isinstance(field.json_schema_extra, dict) else None
        if mark == "input" and isinstance(value, list):
            changed[name] = [pinned(storage, uri, prefix) for uri in value]
        elif mark == "input" and value is not None:
            changed[name] = pinned(storage, value, prefix)
        elif mark == "method" and isinstance(value, BaseModel):
            changed[name] = pinned_inputs(storage, value, prefix)
        elif mark == "method" and isinstance(value, list) and any(isinstance(item, BaseModel) for item in value):
            changed[name] = [pinned_inputs(storage, item, prefix) for item in value]
    fixed = {name: value for name, value in changed.items() if value != getattr(config, name)}
    return config.model_copy(update=fixed) if fixed else config
