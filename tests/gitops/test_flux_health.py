"""Flux's health expressions in a real CEL, evaluated in Flux's order, on objects as the operator leaves them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cel_expr_python import cel
from ruamel.yaml import YAML

from psr_operator.api import GROUP, KINDS, VERSION
from psr_operator.api.manifest import load_manifests
from psr_operator.conditions import State
from tests.controller.kstatus import KStatus, compute, flux_says
from tests.gitops.statuses import (
    GITOPS,
    ROWS,
    Object,
    in_state,
    new,
    recorded_run,
    table_of_the_page,
    versions_of_lives,
    written_out,
)

SOURCE, RUNS = YAML(typ="safe").load_all(GITOPS / "flux" / "runs.yaml")
CHECKS = {check["kind"]: check for check in RUNS["spec"]["healthCheckExprs"]}
ORDER = (("inProgress", KStatus.IN_PROGRESS), ("failed", KStatus.FAILED), ("current", KStatus.CURRENT))
IN_FORCE = {state: KStatus.FAILED if state is State.FAILED else KStatus.CURRENT for state in State}
"""What a commit's Kustomization must make of an object: taken up and not failed is what it waits for."""

Health = Callable[[Object], KStatus]


@pytest.fixture(scope="module")
def health() -> Health:
    """What Flux makes of an object by the expressions of its kind."""
    environment = cel.NewEnv(
        variables=dict.fromkeys(("apiVersion", "kind", "metadata", "spec", "status"), cel.Type.DYN)
    )
    compiled = {
        kind: [(environment.compile(check[word]), status) for word, status in ORDER if word in check]
        for kind, check in CHECKS.items()
    }

    def run(item: Object) -> KStatus:
        seen = item["status"].get("observedGeneration")
        if seen is not None and seen != item["metadata"]["generation"]:
            return KStatus.IN_PROGRESS
        for expression, status in compiled[item["kind"]]:
            answer = expression.eval(data=item)
            assert answer.type() == cel.Type.BOOL, f"{expression}: {answer}"
            if answer.value():
                return status
        return KStatus.IN_PROGRESS

    return run


@pytest.mark.parametrize("state", list(State))
@pytest.mark.parametrize("kind", KINDS)
def test_every_state_of_every_kind(kind: str, state: State, health: Health) -> None:
    item = in_state(kind, state)
    assert health(item) is IN_FORCE[state]
    if compute(item) is not KStatus.IN_PROGRESS:
        assert health(item) is compute(item), "what has ended is to Flux what it is to kstatus"
    assert health(in_state(kind, state, behind=True)) is KStatus.IN_PROGRESS


@pytest.mark.parametrize("kind", KINDS)
def test_a_commit_is_waited_for_until_the_operator_has_taken_it_up(kind: str, health: Health) -> None:
    assert health(new(kind)) is compute(new(kind)) is KStatus.IN_PROGRESS


def test_a_condition_that_is_false_does_not_hold(health: Health) -> None:
    assert health(written_out("StepDPOJob")) is KStatus.CURRENT


def test_whole_lives(health: Health, tmp_path: Path) -> None:
    """Failed where kstatus says so and nowhere else; never current before the operator has looked."""
    seen = set()
    for item in versions_of_lives(tmp_path):
        by_flux, by_kstatus = health(item), compute(item)
        assert (by_flux is KStatus.FAILED) == (by_kstatus is KStatus.FAILED), item
        current = item["status"]["observedGeneration"] == item["metadata"]["generation"]
        assert (by_flux is KStatus.IN_PROGRESS) == (not current), item
        seen.add(item["kind"])
    assert seen == set(KINDS)


def test_what_a_run_said_on_a_real_apiserver(health: Health) -> None:
    for item in recorded_run():
        new_one = item["status"]["observedGeneration"] == -1
        assert health(item) is (KStatus.IN_PROGRESS if new_one else KStatus.CURRENT), item


def test_every_kind_has_its_expressions() -> None:
    assert set(CHECKS) == set(KINDS)
    assert len(CHECKS) == len(RUNS["spec"]["healthCheckExprs"])
    assert {check["apiVersion"] for check in CHECKS.values()} == {f"{GROUP}/{VERSION}"}
    assert RUNS["spec"]["wait"] is True, "else the expressions are not looked at"
    assert RUNS["spec"]["sourceRef"] == {"kind": SOURCE["kind"], "name": SOURCE["metadata"]["name"]}


def test_the_page_s_table(health: Health) -> None:
    kind = "PolicyServer"
    items = [new(kind) if state is None else in_state(kind, state) for state in ROWS]
    assert table_of_the_page("Flux, `runs.yaml`") == [health(item).value for item in items]
    assert table_of_the_page("kstatus") == [compute(item).value for item in items]


def test_the_gate_of_the_page_opens_when_its_run_is_done_and_not_before() -> None:
    """It has no expressions, so kstatus decides, about a run that the folder holds."""
    (text,) = re.findall(r"```yaml\n(.*?)```", (GITOPS / "README.md").read_text(), re.DOTALL)
    gate: Any = YAML(typ="safe").load(text)["spec"]
    assert "healthCheckExprs" not in gate
    assert gate["dependsOn"] == [{"name": RUNS["metadata"]["name"]}]
    (checked,) = gate["healthChecks"]
    (run,) = load_manifests(sorted((GITOPS / "runs").glob("*.yaml")))
    assert (checked["kind"], checked["name"]) == (run.kind, run.metadata.name)
    assert checked["namespace"] == RUNS["spec"]["targetNamespace"]
    said = {state: flux_says([in_state(checked["kind"], state)]) for state in State}
    assert [state for state, word in said.items() if word == "healthy"] == [State.DONE]
    assert [state for state, word in said.items() if word == "unhealthy"] == [State.FAILED]
