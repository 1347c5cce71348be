"""The generated definitions as values: walking a schema, and the smallest manifest that reaches a field."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from psr_operator.api.crd import crd, rendered

Schema = dict[str, Any]
Path = tuple[str, ...]
"""Field names; `[]` stands for a list's items, `*` for a map's values."""

STRINGS = ("a", "b", "A", "B", "1", "2", "/a", "/b", "s3://bucket/a", "s3://bucket/b", "https://a", "https://b")
"""Two strings for every pattern of the API."""


def schema_of(definition: dict[str, Any]) -> Schema:
    """The schema of a definition's only version."""
    (version,) = definition["spec"]["versions"]
    schema: Schema = version["schema"]["openAPIV3Schema"]
    return schema


@cache
def definition(kind: str) -> dict[str, Any]:
    """The generated definition; not to be changed."""
    return crd(kind)


@cache
def files() -> dict[str, str]:
    """The generated files by name; not to be changed."""
    return rendered()


def walk(schema: Schema, at: Path = ()) -> Iterator[tuple[Path, Schema]]:
    """Every schema in a schema, itself first."""
    yield at, schema
    for name, node in schema.get("properties", {}).items():
        yield from walk(node, (*at, name))
    if "items" in schema:
        yield from walk(schema["items"], (*at, "[]"))
    if "additionalProperties" in schema:
        yield from walk(schema["additionalProperties"], (*at, "*"))


def node_at(schema: Schema, path: Path) -> Schema:
    """The schema at a path."""
    for step in path:
        inner = {"[]": "items", "*": "additionalProperties"}.get(step)
        schema = schema[inner] if inner else schema["properties"][step]
    return schema


def rules_of(schema: Schema) -> Iterator[tuple[Path, str, str]]:
    """Path, rule and message of every rule in a schema."""
    for path, node in walk(schema):
        for rule in node.get("x-kubernetes-validations", ()):
            yield path, rule["rule"], rule["message"]


def alternatives(schema: Schema) -> list[str]:
    """The fields of which one must be given, where an object has such a rule."""
    for rule in schema.get("x-kubernetes-validations", ()):
        if "oldSelf" not in rule["rule"] and "volume" not in rule["rule"]:
            names = re.findall(r"has\(self\.(\w+)\)", rule["rule"])
            if names:
                return names
    return []


def example(schema: Schema, path: Path = ()) -> Any:
    """The smallest value of a schema that has something at a path."""
    step, rest = (path[0], path[1:]) if path else ("", ())
    if "properties" in schema:
        names = [*schema.get("required", ()), *([step] if step else ())]
        choice = alternatives(schema)
        if choice and not set(choice) & set(names):
            names.append(choice[0])
        return {
            name: example(schema["properties"][name], rest if name == step else ()) for name in dict.fromkeys(names)
        }
    if schema["type"] == "object":
        return {"a": example(schema["additionalProperties"], rest)} if step == "*" else {}
    if schema["type"] == "array":
        count = max(schema.get("minItems", 0), step == "[]")
        return [example(schema["items"], rest) for _ in range(count)]
    return values(schema)[0]


def values(schema: Schema) -> list[Any]:
    """Two or more right values of a field that is no object, list or map."""
    if "enum" in schema:
        return list(schema["enum"])
    if schema["type"] == "boolean":
        return [True, False]
    if schema["type"] == "string":
        texts = [text for text in STRINGS if re.search(schema.get("pattern", ""), text)]
        assert len(texts) > 1, f"no two strings for {schema}"
        return texts
    if "minimum" not in schema:
        return [1, 2]
    low = schema["minimum"] + (schema["type"] == "integer" and schema.get("exclusiveMinimum", False))
    if schema["type"] == "integer":
        return [low, low + 1]
    return [(low + schema["maximum"]) / 2, (low + schema["maximum"]) / 4]


def manifest(kind: str, path: Path = (), *, name: str = "one", group: str = "psr.dev") -> dict[str, Any]:
    """The smallest manifest of a kind that has something at a path (which begins with `spec`)."""
    spec = example(node_at(schema_of(definition(kind)), ("spec",)), path[1:])
    return {"apiVersion": f"{group}/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}


def put(value: Any, path: Path, new: Any) -> Any:
    """A copy of a value with something else at a path."""
    changed = copy.deepcopy(value)
    _holder(changed, path)[_key(path[-1])] = new
    return changed


def without(value: Any, path: Path) -> Any:
    """A copy of a value without what stands at a path."""
    changed = copy.deepcopy(value)
    del _holder(changed, path)[_key(path[-1])]
    return changed


def get(value: Any, path: Path) -> Any:
    """What stands at a path."""
    for step in path:
        value = value[_key(step)]
    return value


def _holder(value: Any, path: Path) -> Any:
    return get(value, path[:-1])


def _key(step: str) -> Any:
    return {"[]": 0, "*": "a"}.get(step, step)


def plural(kind: str) -> str:
    """The kind's name in URLs."""
    return f"{kind.lower()}s"


def url(kind: str, group: str = "psr.dev", namespace: str = "default") -> str:
    """The collection's path."""
    return f"/apis/{group}/v1alpha1/namespaces/{namespace}/{plural(kind)}"
