"""How a field of a configuration is declared: what marks it, which URIs and names it may hold.

The same classes are read by stages (`PSR_STAGE_CONFIG`) and embedded by `psr_operator.api` under `spec`. Every field is
marked by the function that declares it:

- `method`: part of what is computed. Immutable in the API, part of a stage's digest.
- `input_uri`: the URI of an input. Immutable in the API; the digest holds the input's content, not its address.
- `operation`: how the work is carried out (endpoints, resources, concurrency). Mutable, never in the digest.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel

MANY = 10**9
"""Bound of whole numbers that have no other: an apiserver's integers have an end."""

MARK = "x-psr-field"
"""Key in a field's JSON schema that holds `method`, `input` or `operation`."""

LATER = "x-psr-later"
"""Key in a field's JSON schema: neither part of the digest nor written out while it has its default."""

PLUGIN = "x-psr-plugin"
"""Key in a field's JSON schema that holds the entry-point group and our own implementations by name."""


def method(default: Any = ..., *, later: bool = False, **kwargs: Any) -> Any:
    """Declare a field that decides what is computed: immutable, part of the digest.

    Args:
        later: the field came after results that are still good, and after images that do not know it: while it has
            its default it is not part of the digest and not written out.
    """
    if later:
        return Field(default, json_schema_extra={MARK: "method", LATER: True}, exclude_if=_equals(default), **kwargs)
    return Field(default, json_schema_extra={MARK: "method"}, **kwargs)


def plugin(default: str, *, group: str, own: str, description: str) -> Any:
    """Declare a method field that names an implementation: one of ours, or one that another package brings.

    While it has its default it is not part of the digest and not written out (`method`, later), so results from before
    the field was there stay valid, and images from then can read the rest.

    Args:
        group: entry-point group, `psr.judges` say (`psr_runtime.config.plugins`).
        own: our package with a file for each of ours (`packages.own_implementations`). Of any other name package and
            version are part of the digest.
    """
    extra: dict[str, Any] = {MARK: "method", LATER: True, PLUGIN: {"group": group, "own": own}}
    return Field(default, json_schema_extra=extra, exclude_if=_equals(default), description=description)


def _equals(default: Any) -> Callable[[Any], bool]:
    return lambda value: value == default


def input_uri(default: Any = ..., **kwargs: Any) -> Any:
    """Declare the URI of an input: immutable; the digest holds its content instead of its address."""
    return Field(default, json_schema_extra={MARK: "input"}, **kwargs)


def operation(default: Any = ..., **kwargs: Any) -> Any:
    """Declare a field that decides how the work is carried out: mutable, never in the digest."""
    return Field(default, json_schema_extra={MARK: "operation"}, **kwargs)


class Schema(BaseModel):
    """Base of everything a manifest or a stage configuration is made of: camelCase outside, closed, frozen."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        protected_namespaces=(),
    )

    def to_json(self) -> dict[str, Any]:
        """The object as JSON values under its camelCase names; unset optionals and later defaults are left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)

    def to_whole_json(self) -> dict[str, Any]:
        """`to_json` with the fields that came later and have their defaults: what an apiserver stores."""
        document = self.to_json()
        for name, field in type(self).model_fields.items():
            alias, value = field.alias or name, getattr(self, name)
            if isinstance(value, Schema):
                document[alias] = value.to_whole_json()
            elif isinstance(value, list) and any(isinstance(item, Schema) for item in value):
                document[alias] = [item.to_whole_json() if isinstance(item, Schema) else item for item in value]
            elif isinstance(field.json_schema_extra, dict) and LATER in field.json_schema_extra and value is not None:
                document[alias] = value
        return document


FIRST = "abcdefghijklmnopqrstuvwxyz"
LATER_ONES = FIRST + "0123456789+.-"
"""Characters of a scheme (RFC 3986): the first one and the others. Lower case only."""


def other_scheme(names: Sequence[str]) -> str:
    """A regular expression for every scheme but these, without lookahead, which an apiserver's expressions have not.

    It goes along the names letter by letter: where a scheme leaves them all, anything may follow.
    """
    return _beyond("", names)


def _beyond(prefix: str, names: Sequence[str]) -> str:
    """An expression for what may follow `prefix`, with which some of the names begin."""
    following = sorted({name[len(prefix)] for name in names if name.startswith(prefix) and name != prefix})
    anything = _one_of(LATER_ONES)
    leaving = _one_of("".join(char for char in (LATER_ONES if prefix else FIRST) if char not in following))
    choices = [f"{leaving}{anything}*", *(re.escape(char) + _beyond(prefix + char, names) for char in following)]
    may_end = prefix and prefix not in names
    return f"({'|'.join(choices)}){'?' if may_end else ''}"


def _one_of(chars: str) -> str:
    """An expression for one of these characters, with ranges where they are neighbours."""
    runs: list[str] = []
    for char in sorted(chars.replace("-", "")):
        if runs and ord(char) == ord(runs[-1][-1]) + 1:
            runs[-1] += char
        else:
            runs.append(char)
    ranges = (run if len(run) < 3 else f"{run[0]}-{run[-1]}" for run in runs)
    return f"[{''.join(ranges)}{'-' if '-' in chars else ''}]"


HUB = "hf://"
REPOSITORY = r"(datasets/)?[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+(@[^/@]+)?(/.*)?"
URI = rf"^((file:///|s3://[a-z0-9][a-z0-9.-]{{1,61}}[a-z0-9]/|{other_scheme(['file', 's3', 'hf'])}://).+|{HUB}{REPOSITORY})$"
Uri = Annotated[str, StringConstraints(pattern=URI, max_length=1024)]
"""`file:///…`, `s3://bucket/…`, `hf://org/name@revision/…` (`hf://datasets/…`), or the URI of another scheme, which a
package brings (`psr_runtime.storage`)."""
Text = Annotated[str, StringConstraints(max_length=16384)]
PluginName = Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Za-z0-9]*$", max_length=40)]
"""Name of an implementation that a package may bring."""
Name = Annotated[str, StringConstraints(pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$", max_length=40)]

ChildName = Annotated[str, StringConstraints(pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$", max_length=52)]
"""Name of an object that another one makes: longer than a user's, as it begins with the parent's."""
