"""The identity of a stage's result: what of a configuration decides it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from psr_runtime.config.fields import LATER, MARK
from psr_runtime.config.storage import StageConfig


def method_fields(value: Any) -> Any:
    """What of a configuration decides the result: JSON values of its method fields, nested, without URIs."""
    if isinstance(value, BaseModel):
        kept = {}
        for name, field in type(value).model_fields.items():
            extra = field.json_schema_extra
            mark = extra.get(MARK) if isinstance(extra, Mapping) else None
            if not isinstance(extra, Mapping) or mark is None:
                raise TypeError(f"{type(value).__name__}.{name} is marked neither method, input nor operation")
            if mark == "method" and not (LATER in extra and getattr(value, name) == field.default):
                kept[field.alias or name] = method_fields(getattr(value, name))
        return kept
    if isinstance(value, Mapping):
        return {str(key): method_fields(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [method_fields(item) for item in value]
    return value


def input_uris(value: Any, at: str = "") -> dict[str, str]:
    """Every input of a configuration: dotted field path -> URI. `operation` fields are not inputs."""
    found: dict[str, str] = {}
    if isinstance(value, BaseModel):
        for name, field in type(value).model_fields.items():
            extra = field.json_schema_extra
            mark = extra.get(MARK) if isinstance(extra, Mapping) else None
            path = f"{at}.{field.alias or name}" if at else (field.alias or name)
            item = getattr(value, name)
            if mark == "input" and isinstance(item, list):
                found |= {f"{path}[{index}]": uri for index, uri in enumerate(item)}
            elif mark == "input" and item is not None:
                found[path] = item
            elif mark == "method":
                found |= input_uris(item, path)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            found |= input_uris(item, f"{at}.{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            found |= input_uris(item, f"{at}[{index}]")
    return found


def stage_digest(stage: str, schema: int, config: StageConfig, inputs: Mapping[str, str]) -> str:
    """Identity of a stage's result: sha256 over its name, schema version, method fields and inputs' digests.

    Args:
        stage: name of the stage, as on the command line.
        schema: version of what the stage computes; raised when its meaning changes.
        config: the configuration.
        inputs: digest of each input, by the names that `input_uris` gives them.

    Returns:
        `sha256:` and 64 hexadecimal digits.
    """
    document = {"stage": stage, "schema": schema, "method": method_fields(config), "inputs": dict(inputs)}
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()
