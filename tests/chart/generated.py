"""What is made from elsewhere and kept in the tree: docs/values.md from the comments of values.yaml, and the part of
values.schema.json that describes `podDefaults`, from the model of a manifest's `pod`.

`PSR_WRITE_GOLDEN=1 pytest tests/chart/test_values.py` writes both anew.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from psr_operator.api.pod import PodOverrides

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "psr"
VALUES = CHART / "values.yaml"
SCHEMA = CHART / "values.schema.json"
TABLE = ROOT / "docs" / "values.md"
DEFINITION = "podOverrides"
LONG = 60
"""Characters of a default beyond which the table refers to the file."""

HEAD = """# Values of the chart

Made from the comments of [charts/psr/values.yaml](../charts/psr/values.yaml); names that are not here are refused
([schema](../charts/psr/values.schema.json)). [charts/psr/examples/](../charts/psr/examples/) holds values for a pool of
H100 nodes.

| value | default | |
| --- | --- | --- |
"""


@dataclass(frozen=True)
class Value:
    """A value of the chart.

    Attributes:
        path: keys from the top, with dots.
        text: the comment above it; empty where there is none.
    """

    path: str
    default: Any
    text: str


def values() -> Iterator[Value]:
    """Every value that has a comment or no keys below it."""
    text = VALUES.read_text()
    defaults = YAML(typ="safe").load(text)
    comments = _comments(text)

    def walk(values: Mapping[str, Any], above: tuple[str, ...]) -> Iterator[Value]:
        for key, default in values.items():
            path = (*above, key)
            if isinstance(default, dict) and default and path not in comments:
                yield from walk(default, path)
            else:
                yield Value(".".join(path), default, comments.get(path, ""))

    return walk(defaults, ())


def table() -> str:
    """docs/values.md."""
    return HEAD + "".join(f"| `{item.path}` | {_shown(item.default)} | {item.text} |\n" for item in values())


def pod_overrides() -> dict[str, Any]:
    """JSON schema of a manifest's `pod`, references filled in."""
    schema = PodOverrides.model_json_schema(by_alias=True)
    definitions = schema.pop("$defs")

    def plain(value: Any) -> Any:
        if isinstance(value, list):
            return [plain(item) for item in value]
        if not isinstance(value, dict):
            return value
        if "$ref" in value:
            return plain(definitions[value["$ref"].rsplit("/", 1)[1]])
        if "anyOf" in value:  # a type or null; null is how values say that a default is taken back
            (only,) = [item for item in value["anyOf"] if item != {"type": "null"}]
            return plain(only)
        dropped = ("title", "description", "default", "x-psr-field")
        kept = {key: item for key, item in value.items() if key not in dropped}
        if "patternProperties" in kept:
            kept["additionalProperties"] = False
        if "properties" in kept:
            named = kept.pop("properties")
            return {**plain(kept), "properties": {name: plain(item) for name, item in named.items()}}
        return {key: plain(item) for key, item in kept.items()}

    overrides: dict[str, Any] = plain(schema)
    return overrides


def written_schema(text: str) -> str:
    """The schema with its definition made anew; the rest of the text stays as it is."""
    start = text.index(f'    "{DEFINITION}": ')
    end = text.index("\n", start)
    comma = "," if text[end - 1] == "," else ""
    return f'{text[:start]}    "{DEFINITION}": {json.dumps(pod_overrides())}{comma}{text[end:]}'


def _comments(text: str) -> dict[tuple[str, ...], str]:
    """The comment above each key. One that is followed by an empty line belongs to no key."""
    comments: dict[tuple[str, ...], str] = {}
    path: list[str] = []
    said: list[str] = []
    for line in text.splitlines():
        key = re.match(r"^((?:  )*)([A-Za-z]\w*):", line)
        if line.lstrip().startswith("#"):
            said.append(line.lstrip()[1:].strip())
        elif key is not None:
            path = [*path[: len(key[1]) // 2], key[2]]
            if said:
                comments[tuple(path)] = " ".join(said)
            said = []
        else:
            said = []
    return comments


def _shown(default: Any) -> str:
    text = json.dumps(default, ensure_ascii=False)
    return f"`{text}`" if len(text) <= LONG else "see the file"
