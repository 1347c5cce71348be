"""YAML as kubectl and apiservers read it, with the line of every node.

They read neither YAML 1.1 nor 1.2: `on`, `yes` and `n` are booleans and `010` is eight as in 1.1, `0o10` is eight and
`5e-7` a number as in 1.2, and a date is a string. A manifest must mean the same to `psr run` as to a cluster.
"""

from __future__ import annotations

import math
import re
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import RoundTripConstructor
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.resolver import VersionedResolver
from ruamel.yaml.tag import Tag

WORDS: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"), True),
    **dict.fromkeys(("n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"), False),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan),
    **{sign + word: math.inf for sign in ("", "+") for word in (".inf", ".Inf", ".INF")},
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), -math.inf),
}
INTEGERS = (
    (re.compile(r"[-+]?0[bB][01]+"), 2),
    (re.compile(r"[-+]?0[oO]?[0-7]+"), 8),
    (re.compile(r"[-+]?0[xX][0-9a-fA-F]+"), 16),
    (re.compile(r"[-+]?(0|[1-9][0-9]*)"), 10),
)
FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")


def reader() -> YAML:
    """A reader of manifests: commented maps and sequences that know their lines, and plain Python scalars."""
    yaml = YAML(typ="rt", pure=True)
    yaml.Resolver = _Resolver
    yaml.Constructor = _Constructor
    return yaml


def scalar(text: str) -> bool | int | float | str | None:
    """What an unquoted scalar means."""
    if text in WORDS:
        value: bool | float | None = WORDS[text]
        return value
    plain = text if text.startswith(".") else text.replace("_", "")
    if not re.match(r"[-+.0-9]", text):
        return text
    for spelling, base in INTEGERS:
        if spelling.fullmatch(plain):
            digits = re.sub(r"(?<![0-9a-fA-F])0[bBoOxX]", "", plain)
            number = int(digits, base)
            if -(2**63) <= number < 2**63:
                return number
    if FLOAT.fullmatch(plain) and math.isfinite(float(plain)):
        return float(plain)
    return text


class _Resolver(VersionedResolver):
    """Gives unquoted scalars the tag of what they mean."""

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        if kind is not ScalarNode or not implicit[0]:
            return super().resolve(kind, value, implicit)
        if value == "<<":
            return Tag(suffix="tag:yaml.org,2002:merge")
        name = {type(None): "null", bool: "bool", int: "int", float: "float", str: "str"}[type(scalar(value))]
        return Tag(suffix=f"tag:yaml.org,2002:{name}")


class _Constructor(RoundTripConstructor):
    """Makes plain values of scalars; everything else as ever."""


def _construct(constructor: Any, node: ScalarNode) -> Any:
    return scalar(node.value)


for _name in ("null", "bool", "int", "float"):
    _Constructor.add_constructor(f"tag:yaml.org,2002:{_name}", _construct)
