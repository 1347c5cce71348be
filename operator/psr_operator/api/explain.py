"""`psr explain KIND.path`: the fields of a kind in words, from the models themselves."""

from __future__ import annotations

import textwrap
import types
import typing
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from psr_operator.api import KINDS
from psr_operator.api.fields import fields_of, model_of
from psr_operator.api.manifest import ManifestError
from psr_runtime.config import MARK
from psr_runtime.config.spelling import did_you_mean


def explain(path: str) -> str:
    """Describe the object at a dotted path (`SelfRewardRun.spec.search`).

    Raises:
        ManifestError: no such kind or field; the message names what there is.
    """
    kind, *fields = path.split(".")
    if kind not in KINDS:
        raise ManifestError(f"{kind}: no such kind; there are {', '.join(sorted(KINDS))}{did_you_mean(kind, KINDS)}")
    model: type[BaseModel] = KINDS[kind]
    for index, name in enumerate(fields):
        known = fields_of(model)
        if name not in known:
            raise ManifestError(
                f"{'.'.join([kind, *fields[: index + 1]])}: no such field; there are {', '.join(known)}"
                f"{did_you_mean(name, known)}"
            )
        inner = model_of(known[name].annotation)
        if inner is None:
            return _line(name, known[name])
        model = inner
    lines = [f"{path}: {' '.join((model.__doc__ or '').split())}", ""]
    return "\n".join(lines + [_line(name, field) for name, field in fields_of(model).items()])


def _line(name: str, field: FieldInfo) -> str:
    extra = field.json_schema_extra
    mark = extra.get(MARK) if isinstance(extra, Mapping) else None
    fixed = {"method": "fixed", "input": "fixed", "operation": "changeable"}.get(str(mark), "")
    inner = model_of(field.annotation)
    if field.default is PydanticUndefined or field.is_required():
        default = "required"
    elif isinstance(field.default, BaseModel):
        default = "see below it"
    else:
        default = f"default {field.default!r}" if field.default is not None else "optional"
    kind = f"object {inner.__name__}" if inner is not None else _type_name(field.annotation)
    head = f"  {name} <{kind}> ({', '.join(part for part in (default, fixed) if part)})"
    text = textwrap.fill(field.description or "", 100, initial_indent="      ", subsequent_indent="      ")
    return f"{head}\n{text}" if text else head


def _type_name(annotation: Any) -> str:
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _type_name(typing.get_args(annotation)[0])
    if origin is typing.Literal:
        return " | ".join(map(str, typing.get_args(annotation)))
    if origin in (typing.Union, types.UnionType):
        return " | ".join(_type_name(part) for part in typing.get_args(annotation) if part is not type(None))
    if origin is not None:
        return f"{getattr(origin, '__name__', origin)} of {', '.join(map(_type_name, typing.get_args(annotation)))}"
    return str(getattr(annotation, "__name__", annotation))
