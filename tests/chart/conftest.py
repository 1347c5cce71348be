"""helm, and a control plane that the charts' tests have to themselves: they install and remove PSR's kinds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.control_plane.build import program
from harness.control_plane.plane import ControlPlane, start_control_plane
from tests.chart.helm import Helm


@pytest.fixture(scope="session")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """helm without a cluster."""
    return Helm(program("helm"), tmp_path_factory.mktemp("helm"))


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """An apiserver without PSR's kinds and without controllers: nothing is scheduled, nothing runs."""
    folder = tmp_path_factory.mktemp("chart-plane")
    with start_control_plane(folder, controllers=(), scheduler=False, enforce=False) as plane:
        yield plane


@pytest.fixture(scope="session")
def installer(helm: Helm, cluster: ControlPlane) -> Helm:
    """helm for that apiserver."""
    return helm.on(Path(cluster.kubeconfig))
