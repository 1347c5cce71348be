"""kstatus.py against the rules it is written from, and PSR's condition table against kstatus."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from psr_operator.api import KINDS, PolicyServer
from psr_operator.api.crd import crd
from psr_operator.conditions import State, Summary, status_fields
from tests.controller.kstatus import EXPECTED, KStatus, compute, expected, flux_says, kubectl_wait, state_of

Object = dict[str, Any]


def item(*conditions: tuple[str, str], generation: int = 2, seen: int | None = 2, deleted: bool = False) -> Object:
    """An object with these conditions."""
    meta: Object = {"generation": generation}
    if deleted:
        meta["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    status: Object = {"conditions": [{"type": kind, "status": value} for kind, value in conditions]}
    if seen is not None:
        status["observedGeneration"] = seen
    return {"metadata": meta, "status": status}


RULES = [
    ("no object", None, KStatus.NOT_FOUND),
    ("nothing said", {"metadata": {"generation": 1}}, KStatus.CURRENT),
    ("no Ready condition", item(), KStatus.CURRENT),
    ("ready", item(("Ready", "True")), KStatus.CURRENT),
    ("ready, generation unknown", item(("Ready", "True"), seen=None), KStatus.CURRENT),
    ("not ready", item(("Ready", "False")), KStatus.IN_PROGRESS),
    ("readiness unknown", item(("Ready", "Unknown")), KStatus.IN_PROGRESS),
    ("at work", item(("Ready", "False"), ("Reconciling", "True")), KStatus.IN_PROGRESS),
    ("at work on something that was ready", item(("Ready", "True"), ("Reconciling", "True")), KStatus.IN_PROGRESS),
    ("nothing to be done", item(("Ready", "True"), ("Reconciling", "False")), KStatus.CURRENT),
    ("stuck", item(("Ready", "False"), ("Stalled", "True")), KStatus.FAILED),
    ("stuck without a word of Ready", item(("Stalled", "True")), KStatus.FAILED),
    ("not stuck", item(("Ready", "True"), ("Stalled", "False")), KStatus.CURRENT),
    ("ready for an older generation", item(("Ready", "True"), seen=1), KStatus.IN_PROGRESS),
    ("stuck with an older generation", item(("Stalled", "True"), seen=1), KStatus.IN_PROGRESS),
    ("never seen", item(seen=-1), KStatus.IN_PROGRESS),
    ("going", item(("Ready", "True"), deleted=True), KStatus.TERMINATING),
    ("going, and stuck", item(("Stalled", "True"), deleted=True), KStatus.TERMINATING),
    ("other conditions", item(("Suspended", "True"), ("Ready", "False")), KStatus.IN_PROGRESS),
]


@pytest.mark.parametrize(("item", "status"), [rule[1:] for rule in RULES], ids=[rule[0] for rule in RULES])
def test_statuses_are_those_of_the_specification(item: Object | None, status: KStatus) -> None:
    assert compute(item) is status


@pytest.mark.parametrize("state", list(State))
def test_every_row_of_the_condition_table_is_what_it_must_be_to_kstatus(state: State) -> None:
    item = in_state(state)
    assert state_of(item) is state
    assert compute(item) is expected(item) is EXPECTED[state]


@pytest.mark.parametrize("state", list(State))
def test_a_changed_spec_is_in_progress_whatever_stood_there(state: State) -> None:
    item = in_state(state)
    item["metadata"]["generation"] += 1
    assert compute(item) is expected(item) is KStatus.IN_PROGRESS
    assert not kubectl_wait(item)


def test_conditions_that_are_no_row_are_refused() -> None:
    with pytest.raises(AssertionError, match="no row"):
        state_of(item(("Ready", "True"), ("Stalled", "True")))


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_object_is_not_taken_for_done(kind: str) -> None:
    (version,) = crd(kind)["spec"]["versions"]
    default = version["schema"]["openAPIV3Schema"]["properties"]["status"]["default"]
    assert compute({"metadata": {"generation": 1}, "status": default}) is KStatus.IN_PROGRESS


@pytest.mark.parametrize(
    ("states", "said"),
    [
        ([State.DONE, State.DONE], "healthy"),
        ([State.DONE, State.WORKING], "waiting"),
        ([State.DONE, State.SUSPENDED], "waiting"),
        ([State.DONE, None], "waiting"),
        ([State.WORKING, State.FAILED], "unhealthy"),
    ],
)
def test_flux_waits_until_all_are_current_or_one_has_failed(states: list[State | None], said: str) -> None:
    assert flux_says([None if state is None else in_state(state) for state in states]) == said


def test_kubectl_wait_looks_at_one_condition_and_its_generation() -> None:
    assert [state for state in State if kubectl_wait(in_state(state))] == [State.DONE]
    assert kubectl_wait(item(("ready", "true")))
    assert not kubectl_wait(None)
    assert not kubectl_wait(item())
    assert not kubectl_wait(item(("Ready", "True"), seen=1))
    old = item(("Ready", "True"))
    old["status"]["conditions"][0]["observedGeneration"] = 1
    assert not kubectl_wait(old)
    assert kubectl_wait(in_state(State.SUSPENDED), "Suspended")


def in_state(state: State) -> Object:
    """An object as the operator leaves it in a state."""
    server = PolicyServer.model_validate(
        {
            "metadata": {"name": "server", "generation": 3},
            "spec": {"model": {"uri": "s3://bucket/m1"}},
        }
    )
    fields = status_fields(Summary(state, "Reason", "a message"), server, datetime(2026, 1, 1, tzinfo=UTC))
    stored = server.model_copy(update={"status": server.status.model_copy(update=fields)})
    return {**stored.to_json(), "metadata": {"generation": 3}}
