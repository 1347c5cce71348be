"""The rules by which a manifest's wishes are merged into the pod template."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from psr_operator.render.merge import merge

TABLE: list[tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    ("nothing changes nothing", {"a": {"b": 1}}, {}, {"a": {"b": 1}}),
    ("a value is replaced", {"a": 1, "b": 2}, {"a": 3}, {"a": 3, "b": 2}),
    (
        "maps are merged deeply",
        {"nodeSelector": {"zone": "a", "disk": {"kind": "ssd", "size": 1}}},
        {"nodeSelector": {"disk": {"size": 2}, "gpu": "h100"}},
        {"nodeSelector": {"zone": "a", "disk": {"kind": "ssd", "size": 2}, "gpu": "h100"}},
    ),
    (
        "a named list keeps its order, an item of the same name takes the other's place",
        {"env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]},
        {"env": [{"name": "C", "value": "3"}, {"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]},
        {
            "env": [
                {"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
                {"name": "B", "value": "2"},
                {"name": "C", "value": "3"},
            ]
        },
    ),
    ("a named list that is new is taken", {}, {"volumes": [{"name": "v"}]}, {"volumes": [{"name": "v"}]}),
    (
        "mounts are known by their path",
        {"volumeMounts": [{"name": "v", "mountPath": "/a"}]},
        {"volumeMounts": [{"name": "v", "mountPath": "/b"}, {"name": "w", "mountPath": "/a"}]},
        {"volumeMounts": [{"name": "w", "mountPath": "/a"}, {"name": "v", "mountPath": "/b"}]},
    ),
    ("other lists are replaced", {"tolerations": [{"key": "a"}]}, {"tolerations": []}, {"tolerations": []}),
    ("an affinity is replaced whole", {"affinity": {"a": {}}}, {"affinity": {"b": {}}}, {"affinity": {"b": {}}}),
    ("a map takes a value's place and the reverse", {"a": 1, "b": {}}, {"a": {}, "b": 1}, {"a": {}, "b": 1}),
]


@pytest.mark.parametrize(("base", "changes", "expected"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_merged(base: dict[str, Any], changes: dict[str, Any], expected: dict[str, Any]) -> None:
    before = copy.deepcopy((base, changes))
    assert merge(base, changes) == expected
    assert (base, changes) == before
