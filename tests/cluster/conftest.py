"""What the tests of the cluster share: the cluster, its S3 server, PSR installed by its chart, teams' namespaces."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.control_plane.plane import ControlPlane, named_cluster
from harness.node.node import kubeconfig
from tests.cluster import release
from tests.cluster.demo import make_inputs
from tests.cluster.keep import KEPT, keep
from tests.cluster.store import BUCKET, SHARED, Store, start_store, upload_folder

INPUTS = f"s3://{BUCKET}/input"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test of this folder needs the cluster; `make test` leaves them out by the marker."""
    for item in items:
        if Path(item.fspath).is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.cluster)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Keep the cluster's state of a test that failed, as it is at that moment."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    cluster = getattr(item, "funcargs", {}).get("cluster")
    if report.failed and isinstance(cluster, ControlPlane):
        folder = KEPT / f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', item.name)}.{report.when}"
        keep(cluster, folder)
        report.sections.append(("kept", f"objects, events and logs are in {folder}"))


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """The node of `make cluster-up`, or the cluster that PSR_TEST_KUBECONFIG names."""
    place = os.environ.get("PSR_TEST_KUBECONFIG") or kubeconfig()
    if place is None:
        pytest.fail("no cluster: run `make cluster-up`, or name one in PSR_TEST_KUBECONFIG")
    with named_cluster(Path(place), tmp_path_factory.mktemp("cluster")) as named:
        yield named


@pytest.fixture(scope="session")
def store(cluster: ControlPlane) -> Iterator[Store]:
    """An S3 server in the cluster that holds the demo's inputs; this process may use it too."""
    shared = os.environ.get(SHARED)
    starting = contextlib.nullcontext(Store(**json.loads(shared))) if shared else start_store(cluster)
    with starting as running, pytest.MonkeyPatch.context() as patch:
        for name, value in running.variables.items():
            patch.setenv(name, value)
        yield running


@pytest.fixture(scope="session")
def inputs(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's inputs on this machine; they are in the store as well."""
    folder = make_inputs(tmp_path_factory.mktemp("inputs"))
    upload_folder(store.storage(), folder, INPUTS)
    return folder


@pytest.fixture(scope="session")
def installed(cluster: ControlPlane) -> Iterator[ControlPlane]:
    """The cluster with PSR installed by Helm: by `make test-cluster`, else here and uninstalled at the end."""
    if os.environ.get(SHARED):
        yield cluster
        return
    release.install(cluster, release.values())
    yield cluster
    release.uninstall(cluster)


@pytest.fixture(scope="module")
def team(cluster: ControlPlane, store: Store) -> Iterator[Callable[[str], str]]:
    """Makes namespaces of teams, which enforce the `restricted` Pod Security level and hold the S3 Secret."""
    namespaces = []

    def make(name: str) -> str:
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        cluster.request("POST", "/api/v1/namespaces", {"metadata": {"name": name, "labels": labels}})
        namespaces.append(name)
        store.give_to(cluster, name)
        return name

    yield make
    for name in namespaces:
        with contextlib.suppress(AssertionError):
            cluster.ctl("delete", "psr", "--all", "-n", name, "--timeout=120s")
        cluster.ctl("delete", "namespace", name, "--timeout=180s")
