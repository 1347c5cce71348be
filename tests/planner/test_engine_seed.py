"""The engine's own seed follows the run's: an unseeded one starts every server with the same first samples."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from world import World, run_of

from psr_operator.api import PolicyServer
from psr_operator.api.server import ServerTemplate
from psr_operator.planner.inheritance import child_server
from psr_operator.render.server import _configuration, server_hash
from psr_runtime.config import MAX_EXTRA_ARGS, EngineConfig, ModelSource, ServeStage
from tests.render.samples import policy_server

MODEL = ModelSource(uri="file:///psr/m1")


@pytest.mark.parametrize(("seed", "given"), [(0, None), (7, 7)])
def test_a_run_gives_its_server_its_seed(seed: int, given: int | None) -> None:
    run = run_of(rounds=1)
    run = run.model_copy(update={"spec": run.spec.model_copy(update={"seed": seed})})
    server = child_server(run, "server", ServerTemplate(), MODEL)
    assert isinstance(server, PolicyServer)
    assert server.spec.seed == given
    assert ("seed" in server.spec.to_json()) == (given is not None)


def test_the_plan_of_a_run_with_a_seed_starts_its_engine_with_it(tmp_path: Path) -> None:
    run = run_of(rounds=1)
    run = run.model_copy(update={"spec": run.spec.model_copy(update={"seed": 7})})
    world = World(tmp_path, run)
    started = []
    serve = world.node.serve
    world.node.serve = lambda server: (started.append(server), serve(server))[1]  # type: ignore[method-assign]
    world.finish()
    assert {server.seed for server in started} == {7}


def test_any_image_knows_the_argument_and_a_running_server_is_left_alone() -> None:
    plain, seeded = policy_server(), policy_server(seed=7)
    assert _configuration(plain).engine.extra_args == []
    assert _configuration(seeded).engine.extra_args == ["--seed=7"]
    assert json.loads(json.dumps(_configuration(seeded).to_json()))["engine"]["extraArgs"] == ["--seed=7"]
    assert server_hash(plain) == server_hash(seeded)


@pytest.mark.parametrize("own", [["--seed", "3"], ["--seed=3"], ["--x"] * MAX_EXTRA_ARGS])
def test_a_users_own_arguments_stay_as_they_are(own: list[str]) -> None:
    config = _configuration(policy_server(seed=7, engine=EngineConfig(extra_args=own)))
    assert config.engine.extra_args == own
    assert isinstance(config, ServeStage)
