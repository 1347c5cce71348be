"""What tests of several rooms share: a control plane that is started once, PSR's kinds on it, namespaces."""

from __future__ import annotations

import os
import re
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from harness.control_plane.plane import APIError, ControlPlane, named_cluster, start_control_plane
from psr_operator.api import GROUP, KINDS, VERSION
from psr_operator.api.crd import rendered

# Other work on the machine is no fault of what is tested.
settings.register_profile("beside others", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("beside others")

pytest_plugins = ["tests.suite_order", "tests.suite_times"]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs built programs, so that `-m "not programs"` leaves it out."""
    for item in items:
        if {"plane", "helm", "bare"} & set(getattr(item, "fixturenames", ())):
            item.add_marker("programs")


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A real control plane (`harness/control_plane/plane.py`), or the cluster that PSR_TEST_KUBECONFIG names."""
    folder = tmp_path_factory.mktemp("plane")
    place = os.environ.get("PSR_TEST_KUBECONFIG")
    with named_cluster(Path(place), folder) if place else start_control_plane(folder) as running:
        yield running


@pytest.fixture(scope="session")
def crds(plane: ControlPlane) -> ControlPlane:
    """The control plane with every kind of PSR installed and served."""
    for text in rendered().values():
        plane.request("PATCH", _definition(text), text, content="application/apply-patch+yaml")
    deadline = time.monotonic() + 60
    waiting = {kind.plural for kind in KINDS.values()}
    while waiting:
        assert time.monotonic() < deadline, f"not served: {', '.join(sorted(waiting))}"
        waiting = {name for name in waiting if not _served(plane, name)}
    return plane


def _definition(text: str) -> str:
    (name,) = re.findall(r"(?m)^  name: (\S+)$", text)[:1]
    return (
        f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}"
        "?fieldManager=tests&force=true&fieldValidation=Strict"
    )


def _served(plane: ControlPlane, plural: str) -> bool:
    try:
        plane.request("GET", f"/apis/{GROUP}/{VERSION}/{plural}?limit=1")
        listed = plane.request("GET", f"/apis/{GROUP}/{VERSION}")
    except APIError as error:
        if error.code not in (404, 503):
            raise
        time.sleep(0.05)
        return False
    return any(item["name"] == plural for item in listed["resources"])


@pytest.fixture
def namespace(plane: ControlPlane, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace of this test's own, in which the `restricted` Pod Security level is enforced."""
    words = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())[:40].strip("-")
    name = f"{words}-{uuid.uuid4().hex[:6]}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    plane.request("POST", "/api/v1/namespaces", {"metadata": {"name": name, "labels": labels}})
    yield name
    plane.request("DELETE", f"/api/v1/namespaces/{name}")
