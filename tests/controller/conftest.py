"""What the tests of the operator under disturbances compare with: the same run undisturbed."""

from __future__ import annotations

from typing import Any

import pytest

from harness.control_plane.plane import ControlPlane
from harness.operator_process import grant, start_operator
from tests.controller.one_run import place_for, run


@pytest.fixture(scope="session")
def undisturbed(crds: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The end of `one_run.run()` when nothing happens to it (`Place.state`)."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with place_for(crds, "undisturbed") as place:
        account = grant(crds, [place.namespace])
        with start_operator(account, folder, namespaces=[place.namespace]):
            place.make(run())
            place.until_done()
            state = place.state()
        place.judge()
    return state
