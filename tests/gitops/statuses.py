"""Objects of every kind as the operator leaves them, in every row of the condition table."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from psr_operator.api import KINDS, Resource
from psr_operator.api.crd import crd
from psr_operator.conditions import State, Summary, status_fields
from psr_operator.planner.types import ExitClass
from tests.planner.world import MODEL, STORAGE, World, resource, run_of

Object = dict[str, Any]
ROOT = Path(__file__).parents[2]
GITOPS = ROOT / "examples" / "gitops"
GOLDEN = ROOT / "tests" / "controller" / "golden" / "run.txt"
REASON, MESSAGE = "SomeReason", "a message"

SERVED = {"model": MODEL, "storage": STORAGE, "problems": "s3://bucket/problems.jsonl", "server": {"ref": "server"}}
SPECS: dict[str, dict[str, Any]] = {
    "SelfRewardRun": {
        **{key: SERVED[key] for key in ("model", "storage", "problems")},
        "iterations": [{"questions": 400}],
    },
    "SelfRewardIteration": {**SERVED, "questions": {"count": 400}},
    "PreferenceGeneration": {**SERVED, "questions": {"count": 400}},
    "StepDPOJob": {"model": MODEL, "storage": STORAGE, "pairs": "s3://bucket/pairs"},
    "SFTJob": {"model": MODEL, "storage": STORAGE, "ift": "s3://bucket/ift.jsonl"},
    "ModelEvaluation": SERVED,
    "PolicyServer": {"model": MODEL},
}


def in_state(kind: str, state: State, *, behind: bool = False) -> Object:
    """An object of a kind in a state. `behind`: its spec was changed since the operator looked at it."""
    item = resource(kind, **SPECS[kind])
    item = item.model_copy(update={"metadata": item.metadata.model_copy(update={"generation": 3})})
    fields = status_fields(Summary(state, REASON, MESSAGE), item, datetime(2026, 1, 1, tzinfo=UTC))
    stored = item.model_copy(update={"status": item.status.model_copy(update=fields)}).to_json()
    stored["metadata"]["generation"] += behind
    return stored


def written_out(kind: str) -> Object:
    """A finished object whose other conditions are there and False, as kstatus allows."""
    item = in_state(kind, State.DONE)
    (ready,) = item["status"]["conditions"]
    others = [{**ready, "type": name, "status": "False"} for name in ("Reconciling", "Stalled", "Suspended")]
    item["status"]["conditions"] = [*others, ready]
    return item


def new(kind: str) -> Object:
    """An object that nobody has looked at: its status is the default of its definition."""
    (version,) = crd(kind)["spec"]["versions"]
    item = resource(kind, **SPECS[kind]).to_json()
    return {**item, "status": version["schema"]["openAPIV3Schema"]["properties"]["status"]["default"]}


def versions_of_lives(folder: Path) -> Iterator[Object]:
    """Every object of three runs after every thing that happens: one goes well, one is suspended, one fails."""
    well = World(folder / "well", run_of(rounds=2))
    yield from _objects(well)
    while well.step():
        yield from _objects(well)
    assert well.condition() == ("Ready", "Succeeded")

    suspended = World(folder / "suspended", run_of(rounds=1))
    while "run-1-pairs-search-a1" not in suspended.node.specs:
        assert suspended.step()
    suspended.change(suspend=True)
    yield from _objects(suspended)
    while suspended.step():
        yield from _objects(suspended)
    assert suspended.condition() == ("Suspended", "Suspended")

    failed = World(folder / "failed", run_of(rounds=1))
    while "run-1-dpo-a1" not in failed.node.specs:
        assert failed.step()
    failed.node.fail("run-1-dpo-a1", ExitClass.DATA, "pairs.jsonl, line 3: chosen_ids: Field required")
    failed.settle()
    yield from _objects(failed)
    assert failed.condition() == ("Stalled", "DataError")


def _objects(world: World) -> Iterator[Object]:
    stored: list[Resource] = list(world.executor.store)
    for item in stored:
        yield item.to_json()


def recorded_run() -> list[Object]:
    """What a run's objects said on a real apiserver, one after the other: `tests/controller/golden/run.txt`."""
    objects = []
    kind = ""
    for line in GOLDEN.read_text().splitlines():
        if not line.startswith(" "):
            kind = line.partition("/")[0]
        elif kind in KINDS and not line.startswith("  ordered:"):
            objects.append(_recorded(kind, line.split()))
    return objects


def _recorded(kind: str, words: list[str]) -> Object:
    if words == ["new"]:
        return new(kind)
    reason = words[-1]
    conditions = [
        {"type": name, "status": value, "reason": reason, "message": MESSAGE}
        for name, value in (word.split("=") for word in words[:-1])
    ]
    item = resource(kind, **SPECS[kind]).to_json()
    item["status"] = {"observedGeneration": item["metadata"]["generation"], "conditions": conditions}
    return item


def table_of_the_page(column: str) -> list[str]:
    """The cells of a column of the README's table of states, in its order."""
    rows = re.findall(r"(?m)^\| (.*) \|$", (GITOPS / "README.md").read_text().split("## What they show")[1])
    cells = [row.split(" | ") for row in rows]
    place = cells[0].index(column)
    return [row[place] for row in cells[2:]]


ROWS = (None, State.WORKING, State.FAILED, State.SUSPENDED, State.IDLE, State.DONE)
"""The rows of the README's table; None: not looked at yet."""
