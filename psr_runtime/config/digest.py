"""The identity of a stage's result: what of a configuration decides it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from psr_runtime.config.fields import LATER, MARK, PLUGIN
from psr_runtime.config.packages import bringer, own_implementations
from psr_runtime.config.storage import StageConfig


def method_fields(value: Any) -> Any:
    """What of a configuration decides the result: JSON values of its method fields, nested, without URIs."""
    if isinstance(value, BaseModel):
        return {
            path: method_fields(item)
            for path, item, extra, default in _fields(value)
            if extra[MARK] == "method" and not (LATER in extra and item == default)
        }
    if isinstance(value, Mapping):
        return {str(key): method_fields(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [method_fields(item) for item in value]
    return value


def input_uris(value: Any, at: str = "") -> dict[str, str]:
    """Every input of a configuration: dotted field path -> URI. `operation` fields are not inputs."""
    uris: dict[str, str] = {}
    for path, item, extra in _leaves(value, at):
        if extra[MARK] == "input" and isinstance(item, list):
            uris |= {f"{path}[{index}]": uri for index, uri in enumerate(item)}
        elif extra[MARK] == "input" and item is not None:
            uris[path] = item
    return uris


def plugin_packages(value: Any) -> dict[str, str]:
    """The packages that decide the result: dotted path of each field that names a plug-in -> package and version.

    Our own implementations are left out, since the schema version of the stage counts for them; so is one that is
    registered in this process only, which has no version.
    """
    packages = {}
    for path, name, extra in _leaves(value):
        if PLUGIN in extra and name not in own_implementations(extra[PLUGIN]["own"]):
            package = bringer(extra[PLUGIN]["group"], name)
            if package is not None:
                packages[path] = package
    return packages


def _leaves(value: Any, at: str = "") -> Iterator[tuple[str, Any, Mapping[str, Any]]]:
    """Dotted path, value and marks of every field, those inside method fields included."""
    if isinstance(value, BaseModel):
        for name, item, extra, _ in _fields(value):
            path = f"{at}.{name}" if at else name
            yield path, item, extra
            if extra[MARK] == "method":
                yield from _leaves(item, path)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, f"{at}.{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _leaves(item, f"{at}[{index}]")


def _fields(value: BaseModel) -> Iterator[tuple[str, Any, Mapping[str, Any], Any]]:
    """Name, value, marks and default of each field.

    Raises:
        TypeError: a field has no mark.
    """
    for name, field in type(value).model_fields.items():
        extra = field.json_schema_extra
        if not isinstance(extra, Mapping) or MARK not in extra:
            raise TypeError(f"{type(value).__name__}.{name} is marked neither method, input nor operation")
        yield field.alias or name, getattr(value, name), extra, field.default


def stage_digest(stage: str, schema: int, config: StageConfig, inputs: Mapping[str, str]) -> str:
    """Identity of a stage's result: sha256 over its name, schema version, method fields and inputs' digests, and over
    the versions of packages that bring a plug-in which a method field names.

    Args:
        stage: name of the stage, as on the command line.
        schema: version of what the stage computes; raised when its meaning changes.
        config: the configuration.
        inputs: digest of each input, by the names that `input_uris` gives them.

    Returns:
        `sha256:` and 64 hexadecimal digits.
    """
    document = {"stage": stage, "schema": schema, "method": method_fields(config), "inputs": dict(inputs)}
    if packages := plugin_packages(config):
        document["plugins"] = packages
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()
