"""A server of a hub's model is told where the run records its commit; others are as they were."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from world import run_of

from psr_operator.api import PolicyServer
from psr_operator.api.common import StorageSpec
from psr_operator.api.server import ServerTemplate
from psr_operator.planner import plan
from psr_operator.planner.inheritance import child_server, owner_of
from psr_operator.planner.types import Observed, Server
from psr_operator.render import server as rendered
from psr_operator.render.settings import Settings
from psr_runtime.config import ModelSource

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HUB, STORED = "hf://org/base@main", "s3://bucket/base"


def wanted(server: PolicyServer) -> Server:
    (planned,) = plan(server, Observed(), NOW).servers
    return planned


@pytest.mark.parametrize(("uri", "told"), [(HUB, True), (STORED, False)])
def test_a_child_records_where_its_run_does(uri: str, told: bool) -> None:
    run = run_of(rounds=1)
    planned = wanted(child_server(run, "run-server", ServerTemplate(), ModelSource(uri=uri)))
    assert planned.pins == (owner_of(run).uri if told else None)


@pytest.mark.parametrize(("uri", "told"), [(HUB, True), (STORED, False)])
def test_a_server_alone_records_below_its_own_prefix(uri: str, told: bool) -> None:
    server = child_server(run_of(rounds=1), "alone", ServerTemplate(), ModelSource(uri=STORED))
    spec = server.spec.model_copy(
        update={"model": ModelSource(uri=uri), "storage": StorageSpec(uri="s3://bucket/runs")}
    )
    server = server.model_copy(update={"spec": spec})
    planned = wanted(server)
    assert planned.pins == ("s3://bucket/runs/default/alone" if told else None)
    config = json.loads(rendered(planned, server, Settings("runtime", "inference"))[0]["data"]["serve.json"])
    assert config.get("pins") == planned.pins
    assert ("pins" in config) is told, "older images read the rest"
