"""The words of the API are complete: every field is marked and described, every kind explains itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from psr_operator.api import KINDS
from psr_operator.api.explain import explain
from psr_runtime import config
from psr_runtime.config import MARK
from psr_runtime.stages import STAGES

MARKS = {"method", "input", "operation"}


def _models(kind: Any) -> Iterator[type[BaseModel]]:
    """A model and every model inside its fields."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        yield kind
        for field in kind.model_fields.values():
            yield from _models(field.annotation)
    for part in get_args(kind):
        yield from _models(part)


ROOTS = [
    *(kind.model_fields["spec"].annotation for kind in KINDS.values()),
    *(stage.config for stage in STAGES.values()),
    config.ServeStage,
]


@pytest.mark.parametrize("model", sorted({item for root in ROOTS for item in _models(root)}, key=lambda m: m.__name__))
def test_every_field_is_marked_and_described(model: type[BaseModel]) -> None:
    for name, field in model.model_fields.items():
        extra = field.json_schema_extra
        assert isinstance(extra, Mapping), f"{model.__name__}.{name}"
        assert extra.get(MARK) in MARKS, f"{model.__name__}.{name}"
        assert field.description, f"{model.__name__}.{name}"


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_explains_itself(kind: str) -> None:
    assert KINDS[kind].__doc__
    for name in KINDS[kind].model_fields["spec"].annotation.model_fields:
        alias = KINDS[kind].model_fields["spec"].annotation.model_fields[name].alias
        assert alias in explain(f"{kind}.spec")


def test_the_papers_parameters_are_the_defaults() -> None:
    """Paper §4."""
    search, sft, dpo = config.SearchConfig(), config.SFTConfig(), config.StepDPOConfig()
    assert (search.width, search.temperature, search.top_p, search.max_iterations) == (6, 0.5, 0.95, 20)
    assert (sft.epochs, sft.learning_rate, sft.global_batch) == (3, 1e-6, 32)
    assert (dpo.epochs, dpo.learning_rate, dpo.global_batch) == (1, 5e-7, 32)
