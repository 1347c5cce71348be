"""The fields of the models by the names that a manifest gives them: what explanations, errors and definitions walk."""

from __future__ import annotations

import typing
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from psr_runtime.config import URI


def fields_of(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """The fields of a model by their camelCase names."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def model_of(annotation: Any) -> type[BaseModel] | None:
    """The model inside an annotation (`X`, `X | None`, `list[X]`, `Annotated[X, …]`), None where there is none."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for part in typing.get_args(annotation):
        model = model_of(part)
        if model is not None:
            return model
    return None


def model_at(model: type[BaseModel], place: Sequence[str | int]) -> type[BaseModel] | None:
    """The model at a place of a document: field names, indexes of lists, keys of maps. None where none is there."""
    for part in place:
        field = fields_of(model).get(str(part))
        if field is None:  # an item of a list, or a value of a map, of the model that was come to
            continue
        inner = model_of(field.annotation)
        if inner is None:
            return None
        model = inner
    return model


def paths_to(model: type[BaseModel], name: str, at: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The places of all fields of one name below a model, nearest first in each branch."""
    for alias, field in fields_of(model).items():
        if alias == name:
            yield (*at, alias)
        inner = model_of(field.annotation)
        if inner is not None and inner is not model:
            yield from paths_to(inner, name, (*at, alias))


def holds_uri(field: FieldInfo) -> bool:
    """Whether a field's value is a URI, or a list of them."""
    return _has_pattern(field.annotation, field.metadata)


def _has_pattern(annotation: Any, constraints: Sequence[Any]) -> bool:
    if any(getattr(item, "pattern", None) == URI for item in constraints):
        return True
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return False
    first, *others = typing.get_args(annotation) or (None,)
    if typing.get_origin(annotation) is typing.Annotated:
        return _has_pattern(first, others)
    return any(_has_pattern(part, ()) for part in typing.get_args(annotation))
