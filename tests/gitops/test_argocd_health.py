"""health.lua in a real Lua, as closed as Argo CD's, on objects as the operator leaves them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lupa.lua51  # Argo CD's is a Lua 5.1, too
import pytest
from ruamel.yaml import YAML

from psr_operator.api import GROUP, KINDS
from psr_operator.conditions import State
from tests.controller.kstatus import KStatus, compute, state_of
from tests.gitops.statuses import (
    GITOPS,
    MESSAGE,
    REASON,
    ROWS,
    Object,
    in_state,
    new,
    recorded_run,
    table_of_the_page,
    versions_of_lives,
    written_out,
)

SCRIPT = (GITOPS / "argocd" / "health.lua").read_text()
Health = Callable[[Object], tuple[str, str]]

EXPECTED = {
    State.WORKING: "Progressing",
    State.FAILED: "Degraded",
    State.SUSPENDED: "Suspended",
    State.IDLE: "Suspended",
    State.DONE: "Healthy",
}
SAME = {
    "Progressing": KStatus.IN_PROGRESS,
    "Degraded": KStatus.FAILED,
    "Suspended": KStatus.IN_PROGRESS,  # kstatus has no word for what rests
    "Healthy": KStatus.CURRENT,
}
"""What kstatus says where Argo CD says this."""
CLOSED = ("coroutine", "debug", "io", "math", "os", "package", "python", "require", "string")


def closed_lua() -> Any:
    """A Lua with the base and table libraries only."""
    lua = lupa.lua51.LuaRuntime(register_eval=False, register_builtins=False)
    lua.execute('getmetatable("").__index = nil')
    for library in CLOSED:
        lua.globals()[library] = None
    return lua


@pytest.fixture(scope="module")
def health() -> Health:
    """Runs the script as Argo CD does: `obj` is the object, a table comes back."""
    lua = closed_lua()

    def run(item: Object) -> tuple[str, str]:
        lua.globals().obj = _decoded(lua, item)
        answer = dict(lua.execute(SCRIPT))
        assert set(answer) == {"status", "message"}
        return answer["status"], answer["message"]

    return run


def _decoded(lua: Any, value: Any) -> Any:
    """JSON values as Lua has them: tables, lists counted from 1."""
    if isinstance(value, dict):
        return lua.table_from({key: _decoded(lua, item) for key, item in value.items()})
    return lua.table_from([_decoded(lua, item) for item in value]) if isinstance(value, list) else value


@pytest.mark.parametrize("state", list(State))
@pytest.mark.parametrize("kind", KINDS)
def test_every_state_of_every_kind(kind: str, state: State, health: Health) -> None:
    item = in_state(kind, state)
    word, message = health(item)
    assert word == EXPECTED[state]
    assert SAME[word] is compute(item)
    assert message == f"{REASON}: {MESSAGE}"


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_operator_has_not_looked_at_is_progressing(kind: str, health: Health) -> None:
    for item in (new(kind), *(in_state(kind, state, behind=True) for state in State)):
        assert health(item) == ("Progressing", "the operator has not looked at this version yet")
        assert compute(item) is KStatus.IN_PROGRESS
    bare = {key: value for key, value in new(kind).items() if key != "status"}
    assert health(bare)[0] == "Progressing", "a definition without the default"
    silent = in_state(kind, State.DONE)
    silent["status"]["conditions"] = []
    assert health(silent)[0] == "Progressing", "kstatus would take it for done"


def test_a_condition_that_is_false_does_not_hold(health: Health) -> None:
    assert health(written_out("StepDPOJob"))[0] == "Healthy"


def test_whole_lives(health: Health, tmp_path: Path) -> None:
    """At every moment of runs that go well, are suspended, or fail, children included."""
    seen = set()
    for item in versions_of_lives(tmp_path):
        word, message = health(item)
        state = state_of(item)
        current = state is not None and item["status"]["observedGeneration"] == item["metadata"]["generation"]
        assert word == (EXPECTED[state] if state is not None and current else "Progressing"), item
        assert SAME[word] is compute(item), item
        assert message
        seen.add((item["kind"], word))
    assert {kind for kind, _ in seen} == set(KINDS)
    assert {("SelfRewardRun", word) for word in SAME} <= seen
    assert ("PolicyServer", "Suspended") in seen


def test_what_a_run_said_on_a_real_apiserver(health: Health) -> None:
    recorded = recorded_run()
    assert len(recorded) > 50
    for item in recorded:
        assert SAME[health(item)[0]] is compute(item), item


def test_the_page_s_table(health: Health) -> None:
    kind = "PolicyServer"
    words = [health(new(kind) if state is None else in_state(kind, state))[0] for state in ROWS]
    assert table_of_the_page("Argo CD") == words


def test_every_kind_has_a_key_and_all_the_same_text() -> None:
    kustomization = YAML(typ="safe").load(GITOPS / "argocd" / "kustomization.yaml")
    (generator,) = kustomization["configMapGenerator"]
    keys = dict(line.split("=") for line in generator["files"])
    assert set(keys) == {f"resource.customizations.health.{GROUP}_{kind}" for kind in KINDS}
    assert set(keys.values()) == {"health.lua"}


def test_the_script_needs_what_argo_cd_gives() -> None:
    """The closed runtime of these tests is closed."""
    lua = closed_lua()
    for use in ('string.upper("a")', '("a"):upper()', 'os.getenv("HOME")', "python.builtins"):
        with pytest.raises(lupa.lua51.LuaError):
            lua.execute(f"return {use}")
