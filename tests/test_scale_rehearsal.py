"""The rehearsal of `make bench-scale` in small: a real control plane, nodes that are played, the operator itself.

The checks themselves are tested beside it: a check that nothing fails is none.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from harness.rehearsal.rehearsal import rehearse
from harness.rehearsal.witness import RUN, Scale, Witness, log_faults, orphans, refusals, status_faults


@pytest.mark.programs
def test_three_runs_of_two_iterations_go_through_on_simulated_nodes(tmp_path: Path) -> None:
    scale = Scale(runs=3, iterations=2, nodes=4, pace=0.2, limit=80.0)
    figures = rehearse(scale, tmp_path / "plane", print)
    print(figures.report())
    assert figures.failed == []
    assert figures.jobs == {"sft": 3, "search": 6, "merge": 6, "step-dpo": 6, "evaluate": 9, "report": 3}
    assert figures.pods == {**figures.jobs, "search": 12, "server": 9}
    assert figures.writes_by_kind["create jobs"] == scale.jobs
    assert figures.vanish_seconds is not None


# --- what the checks see -------------------------------------------------------------------------------------


def test_a_server_and_a_training_of_one_run_must_not_hold_gpus_together() -> None:
    witness = Witness()
    witness.pod("ADDED", pod("a-server", "run-1", server=True))
    witness.pod("MODIFIED", pod("a-training", "run-1"))
    assert witness.faults["gpus"] == ["a-training was bound beside a-server"]


@pytest.mark.parametrize(
    ("what", "other"),
    [
        ("another run's training", {"run": "run-2"}),
        ("a training that waits for its node", {"node": None}),
        ("a search, which asks the server", {"gpus": 0}),
        ("a second pod of the server", {"server": True}),
        ("a training that has ended", {"phase": "Succeeded"}),
    ],
)
def test_what_may_stand_beside_a_server(what: str, other: dict[str, Any]) -> None:
    witness = Witness()
    witness.pod("ADDED", pod("a-server", "run-1", server=True))
    witness.pod("ADDED", pod("b", **{"run": "run-1", **other}))
    assert witness.faults["gpus"] == [], what


def test_a_server_that_goes_holds_its_gpus_until_it_is_gone() -> None:
    witness = Witness()
    server = pod("a-server", "run-1", server=True)
    witness.pod("ADDED", server)
    witness.pod("DELETED", server)
    witness.pod("ADDED", pod("a-training", "run-1"))
    assert witness.faults["gpus"] == []


def test_attempts_and_surplus_are_counted() -> None:
    witness = Witness()
    for attempt in ("1", "2"):
        labels = {"psr.dev/stage": "sft", "psr.dev/attempt": attempt}
        witness.job("ADDED", {"metadata": {"uid": attempt, "name": f"sft-a{attempt}", "labels": labels}})
    witness.count(Scale(runs=1, iterations=1))
    assert "Job sft-a2 is attempt 2" in witness.faults["attempts"]
    assert "2 Jobs were made instead of 7" in witness.faults["attempts"]


def test_an_object_whose_owner_is_not_there_is_an_orphan() -> None:
    run = {"kind": "SelfRewardRun", "metadata": {"name": "run-1", "uid": "1"}}
    owner = {"kind": "SelfRewardRun", "name": "run-1", "uid": "1"}
    server = {"kind": "PolicyServer", "metadata": {"name": "run-1-server", "uid": "2", "ownerReferences": [owner]}}
    foreign = {"kind": "ConfigMap", "metadata": {"name": "kube-root-ca.crt", "uid": "3"}}
    assert orphans([run, server, foreign]) == []
    assert orphans([server, foreign]) == ["PolicyServer/run-1-server: SelfRewardRun/run-1 is not there"]
    alone = copy.deepcopy(server)
    del alone["metadata"]["ownerReferences"]
    assert orphans([run, alone]) == ["PolicyServer/run-1-server has no owner"]


def test_what_objects_and_the_log_say_of_failures() -> None:
    stalled = {"type": "Stalled", "status": "True", "reason": "DataError", "message": "line 3"}
    item = {"kind": "SFTJob", "metadata": {"name": "it"}}
    item["status"] = {"conditions": [stalled], "attempts": {"train": {"attempt": 2}}}
    assert status_faults([item]) == {
        "stalled": ["SFTJob/it: DataError: line 3"],
        "attempts": ["SFTJob/it: train came to attempt 2"],
    }
    text = "12:00:00 INFO psr: well\n12:00:01 ERROR psr: not well\nTraceback (most recent call last):\n"
    assert log_faults(text) == ["12:00:01 ERROR psr: not well", "Traceback (most recent call last):"]


def test_refused_writes_are_read_from_the_audit_log(tmp_path: Path) -> None:
    events = [
        ("operator", "patch", 409),
        ("operator", "create", 201),
        ("operator", "get", 404),
        ("other", "patch", 422),
    ]
    lines = [
        {
            "user": {"username": user},
            "verb": verb,
            "objectRef": {"resource": "jobs", "subresource": "status"},
            "responseStatus": {"metadata": {}, "code": code},
        }
        for user, verb, code in events
    ]
    text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
    (tmp_path / "audit.log").write_text(text)
    assert refusals(tmp_path, "operator") == {"409 patch jobs/status": 1}


def pod(
    name: str, run: str, *, server: bool = False, gpus: int = 1, node: str | None = "node-000", phase: str = "Running"
) -> dict[str, Any]:
    role = {"psr.dev/server": "server"} if server else {"psr.dev/stage": "step-dpo"}
    resources = {"limits": {"nvidia.com/gpu": str(gpus)}} if gpus else {}
    return {
        "metadata": {"uid": name, "name": name, "labels": {RUN: run, **role}},
        "spec": {"containers": [{"name": "it", "resources": resources}], **({"nodeName": node} if node else {})},
        "status": {"phase": phase},
    }
