"""Manifests: YAML as kubectl reads it (`kubectl_yaml.py`), checked field by field.

Errors name the file, the line and the field.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from ruamel.yaml.comments import CommentedMap, TaggedScalar
from ruamel.yaml.error import YAMLError

from psr_operator.api import KINDS, Resource
from psr_operator.api.common import GROUP, VERSION
from psr_operator.api.faults import faults, line_of
from psr_operator.api.kubectl_yaml import reader
from psr_operator.api.paths import with_uris
from psr_operator.api.stored import readable_metadata
from psr_runtime.config.spelling import did_you_mean
from psr_runtime.storage.nearby import beside

M = TypeVar("M", bound=BaseModel)

NAME_LENGTH = 40
"""Longest name of an object that a user makes; children's names are longer."""


class ManifestError(Exception):
    """A manifest is wrong; the message names file, line and field. Exit code 64."""


def load_manifests(paths: Sequence[Path]) -> list[Resource]:
    """Every object of the files, in order.

    Raises:
        ManifestError: a file cannot be read, is not YAML, or an object in it is wrong.
    """
    objects = [item for path in paths for item in _load(path)]
    seen: dict[str, str] = {}
    for item in objects:
        name = item.metadata.name
        if name in seen:
            raise ManifestError(
                f"{item.ref}: {seen[name]} has this name already in {', '.join(map(str, paths))}; attempts and "
                "children are named after it, so give each object a name of its own"
            )
        seen[name] = item.ref
    return objects


def load_schema(path: Path, kind: type[M]) -> M:
    """One YAML document that is no object of the API, a file of settings say.

    Raises:
        ManifestError: the file cannot be read, is not one YAML map, or a field of it is wrong.
    """
    documents = _documents(path)
    if len(documents) != 1 or not isinstance(documents[0], CommentedMap):
        raise ManifestError(f"{path}: expected one YAML document with {', '.join(kind.model_fields)}")
    try:
        return kind.model_validate(_plain(documents[0]), by_name=False, by_alias=True)
    except ValidationError as error:
        raise ManifestError(faults(path, documents[0], kind, error)) from error


def _documents(path: Path) -> list[Any]:
    """The YAML documents of a file that are not empty."""
    try:
        text = path.read_text(encoding="utf-8")
        documents = list(reader().load_all(text))
    except OSError as error:
        meant = beside(path) if isinstance(error, FileNotFoundError) else ""
        raise ManifestError(f"{path}: cannot be read ({error.strerror}){meant}") from error
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path}: is not UTF-8 text") from error
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None else ""
        raise ManifestError(f"{path}{line}: {getattr(error, 'problem', None) or error}") from error
    return [document for document in documents if document is not None]


def _load(path: Path) -> Iterator[Resource]:
    documents = _documents(path)
    if not documents:
        raise ManifestError(f"{path}: holds no object")
    for document in documents:
        yield _parse(path, document)


def _parse(path: Path, document: Any) -> Resource:
    if not isinstance(document, CommentedMap):
        raise ManifestError(f"{path}, line 1: expected an object with apiVersion, kind, metadata and spec")
    model = _model_of(path, document)
    plain = with_uris(model, _plain({key: value for key, value in document.items() if key != "status"}), path.parent)
    if isinstance(plain.get("metadata"), Mapping):
        plain["metadata"] = readable_metadata(plain["metadata"])
    try:
        # As an apiserver: the names of a manifest are camelCase, those of the code are for the code.
        resource = model.model_validate(plain, by_name=False, by_alias=True)
    except ValidationError as error:
        raise ManifestError(faults(path, document, model, error)) from error
    if len(resource.metadata.name) > NAME_LENGTH:
        raise ManifestError(
            f"{path}, line {line_of(document, ('metadata', 'name'))}: metadata.name: at most {NAME_LENGTH} characters"
        )
    return resource


def _model_of(path: Path, document: CommentedMap) -> type[Resource]:
    """The kind of a document, whose apiVersion is ours."""
    kind, version = document.get("kind"), document.get("apiVersion")
    if kind not in KINDS:
        raise ManifestError(
            f"{path}, line {line_of(document, ('kind',))}: kind: {kind!r} is none of {', '.join(sorted(KINDS))}"
            f"{did_you_mean(str(kind), KINDS)}"
        )
    if version != f"{GROUP}/{VERSION}":
        raise ManifestError(
            f"{path}, line {line_of(document, ('apiVersion',))}: apiVersion: {version!r} is not {GROUP}/{VERSION}"
            f"; write apiVersion: {GROUP}/{VERSION}"
        )
    return KINDS[kind]


def _key(key: Any) -> str:
    return str(key).lower() if isinstance(key, bool) else str(key)


def _plain(value: Any) -> Any:
    """Round-trip YAML nodes as plain Python values. A field that is null is not set, as on an apiserver."""
    if isinstance(value, dict):
        return {_key(key): _plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, bool):
        return value
    if isinstance(value, TaggedScalar):
        return str(value.value)
    for kind in (int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return value
