"""What the first version planned for a manifest is planned again, at the same place, with the same digest.

A digest decides whether finished work is taken over: with another one an artefact that a user has is refused. The
manifests are those of then; `README.md` says what was recorded.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.before.planned import digest_of, plan_manifest, schema_version

RAISED: dict[str, str] = {}
"""Stages whose schema version was raised on purpose since, and why. Users must be told: their artefacts are refused."""

RECORDED: dict[str, Any] = json.loads(Path(__file__).with_name("digests.json").read_text())
PLANS: dict[str, list[dict[str, Any]]] = RECORDED["plans"]


@pytest.mark.parametrize("manifest", sorted(PLANS))
def test_a_manifest_asks_for_the_same_work_as_before(manifest: str) -> None:
    before = {_name(item): (item["configuration"]["output"], _digest(item)) for item in PLANS[manifest]}
    planned = [vars(item) for item in plan_manifest(RECORDED["manifests"][manifest])]
    assert {_name(item): (item["configuration"]["output"], _digest(item)) for item in planned} == before
    assert len(planned) == len(before), "something is planned twice"


@pytest.mark.parametrize("manifest", sorted(PLANS))
def test_a_configuration_of_before_is_read_and_gives_the_same_digest(manifest: str) -> None:
    """A pod that a former operator started, or a file that somebody kept, still says what it said."""
    for item in PLANS[manifest]:
        digest = digest_of(item["stage"], item["configuration"])
        assert _digest({**item, "digest": digest}) == _digest(item), _name(item)


@pytest.mark.parametrize("stage", sorted(RECORDED["schemaVersions"]))
def test_a_stage_means_what_it_meant_unless_it_is_said_to_differ(stage: str) -> None:
    before = RECORDED["schemaVersions"][stage]
    assert (schema_version(stage) > before) if stage in RAISED else (schema_version(stage) == before)


def _name(item: dict[str, Any]) -> tuple[str, str, int]:
    return item["workload"], item["stage"], item["shard"]


def _digest(item: dict[str, Any]) -> str:
    return "raised" if item["stage"] in RAISED else str(item["digest"])
