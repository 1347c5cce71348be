"""How a field of a configuration is declared: what marks it, which URIs and names it may hold.

The same classes are read by stages (`PSR_STAGE_CONFIG`) and embedded by `psr_operator.api` under `spec`. Every field is
marked by the function that declares it:

- `method`: part of what is computed. Immutable in the API, part of a stage's digest.
- `input_uri`: the URI of an input. Immutable in the API; the digest holds the input's content, not its address.
- `operation`: how the work is carried out (endpoints, resources, concurrency). Mutable, never in the digest.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel

MANY = 10**9
"""Bound of whole numbers that have no other: an apiserver's integers have an end."""

MARK = "x-psr-field"
"""Key in a field's JSON schema that holds `method`, `input` or `operation`."""


def method(default: Any = ..., **kwargs: Any) -> Any:
    """Declare a field that decides what is computed: immutable, part of the digest."""
    return Field(default, json_schema_extra={MARK: "method"}, **kwargs)


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
        """The object as JSON values under its camelCase names, unset optionals left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


URI = r"^(file:///|s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/).+$"
Uri = Annotated[str, StringConstraints(pattern=URI, max_length=1024)]
"""`file:///…` or `s3://bucket/…`."""
Text = Annotated[str, StringConstraints(max_length=16384)]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$", max_length=40)]

ChildName = Annotated[str, StringConstraints(pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$", max_length=52)]
"""Name of an object that another one makes: longer than a user's, as it begins with the parent's."""
