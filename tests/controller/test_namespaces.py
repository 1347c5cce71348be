"""Many namespaces, each for itself: one that is gone or forbidden is skipped and comes again, and the others go on."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.control_plane.plane import ControlPlane
from harness.control_plane.player import play
from harness.operator_process import HOME, Account, Operator, grant, read_rules, start_operator
from tests.controller.one_namespace import JOB, Scene, wait

COUNT = 13
"""More watches than the operator's requests have connections: there are ten kinds."""


@pytest.fixture(scope="module")
def names(crds: ControlPlane) -> Iterator[list[str]]:
    names = [f"tenant-{number}-{uuid.uuid4().hex[:6]}" for number in range(COUNT)]
    for name in names:
        make(crds, name)
    yield names
    for name in names:
        crds.request("DELETE", f"/api/v1/namespaces/{name}")


@pytest.fixture(scope="module")
def account(crds: ControlPlane, names: list[str]) -> Account:
    return grant(crds, names)


def make(plane: ControlPlane, name: str) -> None:
    plane.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})


def delete(plane: ControlPlane, name: str) -> None:
    """Delete a namespace and wait until it is gone."""
    plane.request("DELETE", f"/api/v1/namespaces/{name}")

    def is_gone() -> bool:
        return name not in [item["metadata"]["name"] for item in plane.request("GET", "/api/v1/namespaces")["items"]]

    wait(is_gone)


def allow(plane: ControlPlane, namespace: str, account: Account) -> None:
    """Give an operator its Role in a namespace, as the chart does."""
    place = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}"
    meta = {"metadata": {"name": "psr"}}
    plane.request("POST", f"{place}/roles", {**meta, "rules": read_rules("rules.yaml")})
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "psr"}
    subject = {"kind": "ServiceAccount", "name": account.name, "namespace": HOME}
    plane.request("POST", f"{place}/rolebindings", {**meta, "roleRef": role, "subjects": [subject]})


def train(plane: ControlPlane, namespace: str, name: str, operator: Operator) -> Scene:
    scene = Scene(plane, None, namespace, {}, operator.said)  # type: ignore[arg-type]
    scene.make("StepDPOJob", name, **JOB)
    return scene


def answers(operator: Operator, namespace: str) -> float | None:
    """What the metric says of a namespace."""
    found = re.search(rf'psr_namespace_answers{{namespace="{namespace}"}} (\S+)', operator.metrics())
    return float(found[1]) if found else None


def renewed(plane: ControlPlane, lease: str) -> str:
    path = f"/apis/coordination.k8s.io/v1/namespaces/{HOME}/leases/{lease}"
    return str(plane.request("GET", path)["spec"]["renewTime"])


def test_many_namespaces_are_served_and_writes_and_the_lease_go_on(
    crds: ControlPlane, names: list[str], account: Account, tmp_path: Path
) -> None:
    with play(crds, namespaces=names), start_operator(account, tmp_path, namespaces=names) as operator:
        scenes = [train(crds, name, "first", operator) for name in names]
        for scene in scenes:
            scene.until("StepDPOJob", "Succeeded", "first")
        before = renewed(crds, operator.lease)
        wait(lambda: renewed(crds, operator.lease) != before)
        assert [answers(operator, name) for name in names] == [1.0] * COUNT
        assert operator.process.poll() is None
        assert "WARNING" not in operator.said()


def test_a_namespace_that_is_gone_is_skipped_and_taken_in_again(
    crds: ControlPlane, names: list[str], account: Account, tmp_path: Path
) -> None:
    """The operator begins while it is gone; a third loses its Role while it is served."""
    gone, *others = names[:3]
    delete(crds, gone)
    with play(crds), start_operator(account, tmp_path, namespaces=[gone, *others], resync_seconds=3.0) as operator:
        for name in others:
            train(crds, name, "second", operator).until("StepDPOJob", "Succeeded", "second")
        wait(lambda: answers(operator, gone) == 0.0)
        said = [line for line in operator.said().splitlines() if gone in line]
        assert len(said) == 1, said
        assert "is skipped until it answers again" in said[0]
        forbid = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{others[0]}/rolebindings"
        crds.request("DELETE", forbid)
        wait(lambda: answers(operator, others[0]) == 0.0)
        make(crds, gone)
        allow(crds, gone, account)
        train(crds, gone, "again", operator).until("StepDPOJob", "Succeeded", "again")
        train(crds, others[1], "third", operator).until("StepDPOJob", "Succeeded", "third")
        allow(crds, others[0], account)
        train(crds, others[0], "third", operator).until("StepDPOJob", "Succeeded", "third")
        assert [answers(operator, name) for name in names[:3]] == [1.0] * 3
        for name in (gone, others[0]):
            said = [line for line in operator.said().splitlines() if name in line and "WARNING" in line]
            assert len(said) == 1, said
        assert operator.process.poll() is None
        assert "Traceback" not in operator.said()
