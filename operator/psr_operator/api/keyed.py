"""Lists whose items have a key: no two the same, and on an apiserver merged item by item."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

KEY = "x-psr-key"
"""Key in a list's JSON schema that names its items' key."""


@dataclass(frozen=True)
class Keyed:
    """Annotation of a list of models: its items differ in this field.

    Args:
        key: the field's name outside, in camelCase.
    """

    key: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(schema), KEY: self.key}

    def by_key(self, items: Sequence[BaseModel]) -> dict[str, BaseModel]:
        """The items by their keys."""
        return {str(item.model_dump(by_alias=True)[self.key]): item for item in items}

    def _check(self, items: list[BaseModel]) -> list[BaseModel]:
        keys = [item.model_dump(by_alias=True)[self.key] for item in items]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            raise ValueError(f"the {self.key} {twice} stands twice; give each item one of its own")
        return items
