"""Lists whose items have a key: no two the same, and compared item by item."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from psr_operator.api.pod import PodOverrides
from psr_operator.api.run import SelfRewardRunSpec
from psr_operator.local import store
from tests.api.definitions import manifest


def run(*evaluations: tuple[str, bool, int]) -> SelfRewardRunSpec:
    """A run with evaluations: name, whether it is required, tokens of an answer."""
    items = [
        {"name": name, "problems": "s3://b-b/p", "required": required, "evaluation": {"maxTokens": tokens}}
        for name, required, tokens in evaluations
    ]
    return SelfRewardRunSpec.model_validate({**manifest("SelfRewardRun")["spec"], "evaluations": items})


@pytest.mark.parametrize(
    ("field", "item"),
    [
        ("env", {"name": "A", "value": "1"}),
        ("volumes", {"name": "a", "emptyDir": {}}),
        ("volumeMounts", {"name": "a", "mountPath": "/a"}),
        ("resourceClaims", {"name": "a", "resourceClaimName": "b"}),
        ("imagePullSecrets", {"name": "a"}),
    ],
)
def test_a_key_occurs_once(field: str, item: dict[str, object]) -> None:
    assert len(getattr(PodOverrides.model_validate({field: [item]}), _name(field))) == 1
    with pytest.raises(ValidationError, match="stands twice; give each item one of its own"):
        PodOverrides.model_validate({field: [item, item]})


def _name(alias: str) -> str:
    return next(name for name, field in PodOverrides.model_fields.items() if field.alias == alias)


def changed_method_fields(before: SelfRewardRunSpec, after: SelfRewardRunSpec) -> list[str]:
    return [path for path, *_ in store.changed_method_fields(before, after)]


def test_psr_run_compares_evaluations_by_name_as_an_apiserver_does() -> None:
    """Whether one is required may change, and their order; what it measures may not, nor which there are."""
    before = run(("a", False, 8), ("b", False, 8))
    assert changed_method_fields(before, run(("b", True, 8), ("a", False, 8))) == []
    assert changed_method_fields(before, run(("a", False, 8), ("b", False, 9))) == [
        "evaluations[b].evaluation.maxTokens"
    ]
    assert changed_method_fields(before, run(("a", False, 8))) == ["evaluations"]
    assert changed_method_fields(before, run(("a", False, 8), ("c", False, 8))) == ["evaluations"]
