"""What is wrong with a document, in words: file, line, field, and what was probably meant."""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from psr_operator.api.fields import fields_of, holds_uri, model_at, paths_to
from psr_runtime.config import PLUGIN
from psr_runtime.config.packages import own_implementations
from psr_runtime.config.spelling import did_you_mean, nearest
from psr_runtime.storage.nearby import beside

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
"""A model or data set as the Hugging Face hub names it."""


def faults(path: Path, document: CommentedMap, model: type[BaseModel], error: ValidationError) -> str:
    """Every fault with file, line and field, a line each.

    A required field that stands there under another spelling is one fault.
    """
    listed = error.errors()
    meant = {
        (*fault["loc"][:-1], name)
        for fault in listed
        if fault["type"] == "extra_forbidden" and (name := _meant(model, fault["loc"])) is not None
    }
    lines = []
    for fault in listed:
        place = fault["loc"]
        if fault["type"] == "missing" and tuple(place) in meant:
            continue
        where = ".".join(str(part) for part in place) or "the object"
        lines.append(f"{path}, line {line_of(document, place)}: {where}: {_words(path, model, fault)}")
    return "\n".join(lines)


def line_of(document: Any, place: Sequence[Any]) -> int:
    """Line of the deepest part of `place` that the document has, from 1."""
    line = 0
    node = document
    for part in place:
        try:
            if isinstance(node, CommentedMap):
                line = node.lc.key(part)[0]
            elif isinstance(node, CommentedSeq):
                line = node.lc.item(part)[0]
            node = node[part]
        except (KeyError, IndexError, TypeError, AttributeError):
            break
    return line + 1


def _words(path: Path, model: type[BaseModel], fault: Any) -> str:
    place, message, value = fault["loc"], fault["msg"], fault.get("input")
    if fault["type"] == "extra_forbidden":
        return _no_such_field(model, place)
    shown = f"{message}, found {value!r}" if isinstance(value, str | int | float | bool) else message
    field = _field_at(model, place)
    if field is None or not isinstance(value, str):
        return str(shown)
    if fault["type"] == "string_pattern_mismatch" and holds_uri(field):
        return _no_uri(path, value)
    return f"{shown}{did_you_mean(value, _choices(field.annotation, field))}"


def _no_such_field(model: type[BaseModel], place: Sequence[str | int]) -> str:
    name, parent = str(place[-1]), model_at(model, place[:-1])
    explain = ".".join([model.__name__, *(part for part in place[:-1] if isinstance(part, str))])
    lists = f" (psr explain {explain} lists them)" if place[0] == "spec" else ""
    meant = _meant(model, place)
    if meant is not None:
        return f"no such field; did you mean {meant}?{lists}"
    elsewhere = [".".join(path) for path in paths_to(model, name) if path[0] == "spec"]
    if parent is not None and 0 < len(elsewhere) <= 3:
        return f"no such field here; it stands in {' and '.join(elsewhere)}"
    return f"no such field; check the spelling{lists}"


def _meant(model: type[BaseModel], place: Sequence[str | int]) -> str | None:
    """The field of the same object that a field's name is most like."""
    parent = model_at(model, place[:-1])
    return nearest(str(place[-1]), fields_of(parent)) if parent is not None else None


def _no_uri(path: Path, value: str) -> str:
    written = f"{value!r} is no URI"
    if HUB_NAME.fullmatch(value) and not Path(value).suffix.startswith((".json", ".csv", ".parquet")):
        return (
            f"{written}, and nothing of this name is beside the manifest; for the Hugging Face hub write hf://{value}, "
            "for a folder of this machine its path or file:///…"
        )
    if ":" not in value:
        place = path.parent / value
        return f"{written}, and there is no file or folder {place}{beside(place)}; write a path, file:///… or s3://…"
    return f"{written}; write file:///folder/…, s3://bucket/… or hf://org/name"


def _field_at(model: type[BaseModel], place: Sequence[str | int]) -> FieldInfo | None:
    """The field whose value, or an item of whose value, stands at a place."""
    names = [part for part in place if isinstance(part, str)]
    parent = model_at(model, names[:-1]) if names else None
    return fields_of(parent).get(names[-1]) if parent is not None else None


def _choices(annotation: Any, field: FieldInfo | None = None) -> Iterator[str]:
    """The words that a field may hold, where they are listed: of a Literal, of a plug-in those of ours."""
    extra = field.json_schema_extra if field is not None else None
    if isinstance(extra, dict) and PLUGIN in extra:
        declared: Any = extra[PLUGIN]
        yield from own_implementations(declared["own"])
    if typing.get_origin(annotation) is typing.Literal:
        yield from (choice for choice in typing.get_args(annotation) if isinstance(choice, str))
    else:
        for part in typing.get_args(annotation):
            yield from _choices(part)
