"""Manifests from the schema and from just beyond it: what the apiserver admits is what the models make of the text.

Each is YAML text. Some are right; others have a value at a bound or just beyond it, an unknown field, a wrong type, a
null, something left out, or a number or a word in an unusual spelling. Two things must hold:

- what is admitted reads back equal to what the models make of the manifest, with every default filled in, and plans;
- what the models refuse, the apiserver refuses too, or the stored object cannot be read, so that it is Stalled.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from harness.control_plane.plane import ControlPlane
from psr_operator.api import KINDS, Resource
from psr_operator.api.kubectl_yaml import scalar
from psr_operator.api.manifest import ManifestError, load_manifests
from psr_operator.api.pod import without_nulls
from psr_operator.api.stored import parse, to_stored
from psr_operator.planner import plan
from psr_operator.planner.types import Observed
from tests.api.client import YAML, Connection
from tests.api.definitions import (
    Schema,
    alternatives,
    definition,
    node_at,
    schema_of,
    url,
    values,
)

EXAMPLES = 300
"""Manifests of each kind."""
NOW = datetime(2026, 1, 1, tzinfo=UTC)

NUMBERS = [
    *("1.0", "1e0", "1e3", "5e-7", ".5", "1.", "0x10", "0o10", "010", "08", "1_0", "+1", "-0", "-0.0", "1.5", "0b1"),
    *("1:30", "1e30", "1e400", ".inf", ".nan", "9223372036854775807", "9223372036854775808", "18446744073709551616"),
]
WORDS = ["on", "off", "yes", "n", "y", "True", "~", "null", "2024-05-01", "1", "'1'", '"on"', "''"]


@dataclass(frozen=True)
class Spelled:
    """A scalar as it stands in the text."""

    text: str


# --- right values -------------------------------------------------------------------------------------------


@st.composite
def right(draw: st.DrawFn, schema: Schema) -> Any:
    """A value that a schema and its rules admit."""
    if "properties" in schema:
        needed = list(schema.get("required", ()))
        choice = alternatives(schema)
        free = [name for name in schema["properties"] if name not in needed and name not in choice]
        chosen = draw(st.lists(st.sampled_from(free), max_size=3, unique=True)) if free else []
        one = [draw(st.sampled_from(choice))] if choice else []
        drawn = {name: draw(right(schema["properties"][name])) for name in [*needed, *chosen, *one]}
        if str(drawn.get("uri", "")).startswith("file://") and "volume" in drawn:
            drawn["uri"] = "file://" + drawn["volume"]["mountPath"] + "/x"
        return drawn
    if schema["type"] == "object":
        if "additionalProperties" not in schema:
            return draw(st.sampled_from([{}, {"a": 1}, {"nodeAffinity": None, "list": [None, {"b": None, "c": 1.0}]}]))
        names = draw(st.lists(st.sampled_from(["a", "b/c", "d.e/f-g"]), max_size=2, unique=True))
        return {name: draw(right(schema["additionalProperties"])) for name in names}
    if schema["type"] == "array":
        items = draw(st.lists(right(schema["items"]), min_size=schema.get("minItems", 0), max_size=2))
        for key in schema.get("x-kubernetes-list-map-keys", ()):
            items = list({item[key]: item for item in items}.values())
        return items
    return draw(st.sampled_from([*values(schema), *at_bounds(schema)]))


def at_bounds(schema: Schema) -> list[Any]:
    """The least and the greatest values of a field."""
    if "enum" in schema or schema["type"] == "boolean":
        return []
    if schema["type"] == "string":
        return [_long(schema, schema["maxLength"])] if "pattern" not in schema else []
    tiny = 1 if schema["type"] == "integer" else 1e-9
    low = schema["minimum"] + tiny * schema.get("exclusiveMinimum", False)
    high = schema["maximum"] - tiny * schema.get("exclusiveMaximum", False)
    return [low, high]


def _long(schema: Schema, length: int) -> str:
    start: str = values(schema)[0]
    return start + ("1" if start.isdigit() else "a") * (length - len(start))


# --- at the edges -------------------------------------------------------------------------------------------


@st.composite
def edited(draw: st.DrawFn, schema: Schema, value: Any) -> Any:
    """A value with one thing in it changed, right or wrong."""
    if "properties" in schema and isinstance(value, dict):
        inner = [(name, schema["properties"][name]) for name in value if name in schema["properties"]]
        edges = _objects(schema, value)
    elif schema["type"] == "object" and isinstance(value, dict):
        inner = [(name, schema["additionalProperties"]) for name in value] if "additionalProperties" in schema else []
        edges = _objects(schema, value)
    elif schema["type"] == "array" and isinstance(value, list):
        inner = [(index, schema["items"]) for index in range(len(value))]
        edges = _lists(schema, value)
    else:
        inner = []
        edges = [None, {}, [], "text"] if schema["type"] in ("object", "array") else _scalars(schema)
    if inner and draw(st.integers(0, 4)):
        key, node = draw(st.sampled_from(inner))
        changed = list(value) if isinstance(value, list) else dict(value)
        changed[key] = draw(edited(node, value[key]))
        return changed
    return draw(st.sampled_from(edges))


def _objects(schema: Schema, value: dict[str, Any]) -> list[Any]:
    edges: list[Any] = [None, [], "text", {**value, "unknownField": 1}, {}]
    edges += [{key: item for key, item in value.items() if key != gone} for gone in value]
    edges += [{**value, name: None} for name in list(schema.get("properties", ()))[:8]]
    edges += [{**value, choice: {}} for choice in alternatives(schema)]
    if "additionalProperties" in schema:
        edges += [{**value, key: "a"} for key in ("-a", "a" * 64, "a" * 63, "a/b/c", "", "x" * 320)]
        edges += [{**value, "a": None}, {f"k{index}": "a" for index in range(schema["maxProperties"] + 1)}]
    return edges


def _lists(schema: Schema, value: list[Any]) -> list[Any]:
    edges: list[Any] = [None, {}, "text", [], [*value, None], [*value, *value], [*value, {}], [*value, "a"]]
    if value:
        edges += [value[:1] * (schema["maxItems"] + 1), value[:1] * schema["maxItems"]]
    return edges


def _scalars(schema: Schema) -> list[Any]:
    edges: list[Any] = [None, {}, [], [None], *at_bounds(schema)]
    edges += [Spelled(text) for text in (*WORDS, *NUMBERS)]
    if schema["type"] == "string":
        edges += ["", "text", "a\nb", "é", "s3://b/a", "s3://bucket", "file://a", "file:///a\n", " a", "a ", "64Gi"]
        if "maxLength" in schema:
            edges += [_long(schema, schema["maxLength"]), _long(schema, schema["maxLength"] + 1)]
            edges += ["é" * schema["maxLength"]]
    elif "minimum" in schema:
        low, high = at_bounds(schema)
        edges += [schema["minimum"], schema["maximum"], low - 1, high + 1, float(low), float(high), str(low)]
    return edges


# --- text ---------------------------------------------------------------------------------------------------


def text_of(value: Any) -> str:
    """A value as YAML, in flow style; strings quoted, so that only `Spelled` is unusual."""
    if isinstance(value, Spelled):
        return value.text
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)}: {text_of(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(text_of, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


@st.composite
def manifests(draw: st.DrawFn, kind: str) -> str:
    """The text of one object."""
    schema = node_at(schema_of(definition(kind)), ("spec",))
    spec = draw(right(schema))
    for _ in range(draw(st.integers(0, 2))):
        spec = draw(edited(schema, spec)) if isinstance(spec, dict) else spec
    name = draw(st.sampled_from(["one"] * 12 + ["a" * 40, "a" * 41, "a" * 53, "1a", "A", "a.b", "a-", ""]))
    return (
        f"apiVersion: psr.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {json.dumps(name)}}}\nspec: {text_of(spec)}\n"
    )


# --- the two sides ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def connection(crds: ControlPlane) -> Iterator[Connection]:
    connection = Connection(crds)
    yield connection
    connection.close()


def read(text: str, place: Path) -> Resource | str:
    """What the models make of a manifest: the object, or why not."""
    place.write_text(text, encoding="utf-8")
    try:
        (manifest,) = load_manifests([place])
    except ManifestError as error:
        return str(error)
    return manifest


def without_unfilled(whole: Any, stored: Any, schema: dict[str, Any]) -> Any:
    """A spec without the defaults of items that have no key: the apiserver leaves those to the models."""
    if isinstance(whole, dict) and isinstance(stored, dict):
        properties = schema.get("properties", {})
        return {
            name: without_unfilled(value, stored.get(name), properties.get(name, {})) for name, value in whole.items()
        }
    if isinstance(whole, list) and isinstance(stored, list) and len(whole) == len(stored):
        items, keyless = schema.get("items", {}), schema.get("x-kubernetes-list-type") == "atomic"
        return [
            without_unfilled(_said(one, other) if keyless else one, other, items)
            for one, other in zip(whole, stored, strict=True)
        ]
    return whole


def _said(item: Any, stored: Any) -> Any:
    """What of an item is stored as well."""
    if not isinstance(item, dict) or not isinstance(stored, dict):
        return item
    return {name: _said(value, stored[name]) for name, value in item.items() if name in stored}


@pytest.mark.parametrize("kind", KINDS)
def test_the_apiserver_and_the_models_agree(kind: str, connection: Connection, tmp_path: Path) -> None:
    seen: Counter[str] = Counter()
    spec_schema = schema_of(definition(kind))["properties"]["spec"]

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(manifests(kind))
    def check(text: str) -> None:
        wanted = read(text, tmp_path / "one.yaml")
        code, answer = connection.send("POST", f"{url(kind)}?dryRun=All&fieldValidation=Strict", text, YAML)
        seen[f"{'admitted' if code == 201 else 'refused'}, {'right' if isinstance(wanted, Resource) else 'wrong'}"] += 1
        if code != 201:
            assert code in (400, 422), answer
            return
        try:
            stored = parse(answer)
        except ValidationError:
            assert isinstance(wanted, str), f"{text}\nis stored as {answer['spec']}\nand cannot be read"
            return
        if isinstance(wanted, str):  # a name that only an object of another one may have
            assert "metadata.name: at most 40" in wanted, f"{text}\nis admitted as {answer['spec']}, but {wanted}"
            assert "\n" not in wanted
        else:
            assert stored.spec == wanted.spec, text
            assert to_stored(wanted)["spec"] == wanted.spec.to_json()
            whole = without_unfilled(wanted.spec.to_whole_json(), without_nulls(answer["spec"]), spec_schema)
            assert whole == without_nulls(answer["spec"]), f"{text}\nlacks defaults"
        assert answer["status"] == {"observedGeneration": -1}
        plan(stored, Observed(), NOW)

    check()
    assert seen["admitted, right"] > EXAMPLES // 4, seen
    assert seen["refused, wrong"] > EXAMPLES // 4, seen
    assert seen["refused, right"] < EXAMPLES // 5, seen


UNQUOTED = [text for text in (*NUMBERS, *WORDS) if text[0] not in "'\""]


@pytest.mark.parametrize("text", [*UNQUOTED, "text", "1e", "0x", "0o8", "-0b11", "+.5", "-.5", "._5", "0_1", "=", "N"])
def test_a_scalar_means_the_same_to_both(text: str, connection: Connection) -> None:
    """The apiserver shows what it has read, where anything may stand. JSON has no infinity, so it refuses those."""
    spec = f"{{model: {{uri: s3://bucket/a}}, pod: {{affinity: {{read: {text}}}}}}}"
    manifest = f"apiVersion: psr.dev/v1alpha1\nkind: PolicyServer\nmetadata: {{name: one}}\nspec: {spec}\n"
    code, answer = connection.send("POST", f"{url('PolicyServer')}?dryRun=All", manifest, YAML)
    meant = scalar(text)
    if isinstance(meant, float) and not math.isfinite(meant):
        assert code == 400
        return
    assert code == 201, answer
    read = answer["spec"]["pod"]["affinity"]["read"]
    if isinstance(meant, bool | str | None):
        assert (type(read), read) == (type(meant), meant)
    else:
        assert float(read) == float(meant)
