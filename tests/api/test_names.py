"""The models read a manifest's names as strictly as an apiserver with `fieldValidation: Strict`: camelCase only.

Every field of every kind is tried under the name that the code gives it, and every word of a list in another case.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path as File
from typing import Any

import jsonschema
import pytest
from pydantic.alias_generators import to_snake

from psr_operator.api import KINDS
from psr_operator.api.manifest import ManifestError, load_manifests
from tests.api.definitions import Path, Schema, definition, get, manifest, node_at, put, schema_of, walk, without


def unknown(schema: Schema, value: Any, at: Path = ()) -> Iterator[Path]:
    """The fields of a value that a schema does not have: what strict validation refuses."""
    if isinstance(value, Mapping) and "properties" in schema:
        for name, item in value.items():
            if name in schema["properties"]:
                yield from unknown(schema["properties"][name], item, (*at, name))
            else:
                yield (*at, name)
    elif isinstance(value, Mapping) and "additionalProperties" in schema:
        for name, item in value.items():
            yield from unknown(schema["additionalProperties"], item, (*at, name))
    elif isinstance(value, list) and "items" in schema:
        for index, item in enumerate(value):
            yield from unknown(schema["items"], item, (*at, str(index)))


def admitted(kind: str, document: Mapping[str, Any]) -> bool:
    """Whether the definition's schema, read strictly, admits a document. Rules in CEL are other tests'."""
    schema = schema_of(definition(kind))
    spec = node_at(schema, ("spec",))
    draft = jsonschema.Draft4Validator  # whose exclusive bounds are those of OpenAPI 3.0
    return not list(unknown(spec, document["spec"])) and draft(spec).is_valid(document["spec"])


def read(document: Mapping[str, Any], folder: File) -> str:
    """What `psr run` says against a manifest; empty where it takes it."""
    path = folder / "run.yaml"
    path.write_text(json.dumps(document))
    try:
        load_manifests([path])
    except ManifestError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("kind", KINDS)
def test_a_field_has_one_name(kind: str, tmp_path: File) -> None:
    tried = 0
    for path, _ in walk(schema_of(definition(kind))):
        if path[:1] != ("spec",) or to_snake(path[-1]) == path[-1]:
            continue
        right = manifest(kind, path)
        if "volume" in path:  # which has to hold the URI beside it
            right = put(right, (*path[: path.index("volume")], "uri"), "file:///a/b")
        holder = without(right, path)
        wrong = put(holder, (*path[:-1], to_snake(path[-1])), get(right, path))
        assert admitted(kind, right), path
        assert not admitted(kind, wrong), path
        assert not read(right, tmp_path), path
        said = read(wrong, tmp_path)
        assert f"{to_snake(path[-1])}: no such field; did you mean {path[-1]}?" in said, said
        assert len(said.splitlines()) == 1 or "give" in said, f"more than one fault: {said}"
        tried += 1
    assert tried > 20


@pytest.mark.parametrize("kind", KINDS)
def test_a_word_of_a_list_has_one_case(kind: str, tmp_path: File) -> None:
    tried = 0
    for path, node in walk(schema_of(definition(kind))):
        if path[:1] != ("spec",) or "enum" not in node or node["type"] != "string":
            continue
        for word in filter(None, node["enum"]):
            wrong = put(manifest(kind, path), path, word.swapcase())
            assert not admitted(kind, wrong), path
            assert f"found '{word.swapcase()}'; did you mean {word}?" in read(wrong, tmp_path), path
            tried += 1
    assert tried > 5
