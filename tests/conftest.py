"""What tests of several rooms share: a control plane that is started once, and a namespace of each test's own."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.control_plane.plane import ControlPlane, named_cluster, start_control_plane


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A real control plane (`tests/control_plane/plane.py`), or the cluster that PSR_TEST_KUBECONFIG names."""
    folder = tmp_path_factory.mktemp("plane")
    given = os.environ.get("PSR_TEST_KUBECONFIG")
    with named_cluster(Path(given), folder) if given else start_control_plane(folder) as found:
        yield found


@pytest.fixture
def namespace(plane: ControlPlane, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace of this test's own, in which the `restricted` Pod Security level is enforced."""
    words = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())[:40].strip("-")
    name = f"{words}-{uuid.uuid4().hex[:6]}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    plane.request("POST", "/api/v1/namespaces", {"metadata": {"name": name, "labels": labels}})
    yield name
    plane.request("DELETE", f"/api/v1/namespaces/{name}")
