"""What is held against every version of a recording finds what is wrong there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.control_plane.plane import ControlPlane
from tests.controller.recording import (
    Recording,
    Version,
    changes_of,
    check_gpus,
    check_statuses,
    check_traces,
    created_between,
)

Object = dict[str, Any]


def recording(*versions: tuple[str, str, Object]) -> Recording:
    """A recording of (event, kind, object), numbered from 1."""
    nowhere = Path("nowhere")
    record = Recording(ControlPlane("", nowhere, nowhere, nowhere, nowhere, None), "default")
    record._versions += [Version(number, *version) for number, version in enumerate(versions, 1)]
    return record


def job(seen: int = 1, of: int = 1, **conditions: str) -> Object:
    """A training job with these conditions."""
    conditions = [
        {"type": kind, "status": status, "reason": "Reason", "message": "words", "observedGeneration": of}
        for kind, status in conditions.items()
    ]
    status = {"observedGeneration": seen, "reason": "Reason", "conditions": conditions}
    return {"metadata": {"name": "it", "generation": 1}, "spec": {}, "status": status}


def pod(name: str, *, server: bool, phase: str = "Running", gpus: int = 1) -> Object:
    labels = {"psr.dev/server": "server"} if server else {"psr.dev/workload": "work"}
    container = {"resources": {"limits": {"nvidia.com/gpu": str(gpus)}}}
    meta = {"name": name, "uid": name, "labels": labels}
    return {"metadata": meta, "spec": {"containers": [container]}, "status": {"phase": phase}}


def test_statuses_that_are_right_pass() -> None:
    new = {"metadata": {"name": "it", "generation": 1}, "spec": {}, "status": {"observedGeneration": -1}}
    check_statuses(recording(("ADDED", "SFTJob", new), ("MODIFIED", "SFTJob", job(Ready="True"))))


@pytest.mark.parametrize(
    "wrong",
    [
        job(Ready="True", Stalled="True"),
        job(Ready="False", Stalled="True", Reconciling="True"),
        job(seen=2, Ready="True"),
        job(of=2, Ready="True"),
        job(),  # an empty status of the present generation: kstatus takes it for done
    ],
    ids=["ready and stalled", "no row", "ahead of the object", "ahead of the status", "nothing said"],
)
def test_statuses_that_are_wrong_are_found(wrong: Object) -> None:
    with pytest.raises(AssertionError):
        check_statuses(recording(("MODIFIED", "SFTJob", wrong)))


def test_traces_are_found() -> None:
    for meta in ({"finalizers": ["kopf.zalando.org/finalizer"]}, {"annotations": {"kopf.zalando.org/last": "{}"}}):
        item = job(Ready="True")
        item["metadata"] |= meta
        with pytest.raises(AssertionError):
            check_traces(recording(("MODIFIED", "SFTJob", item)))


def test_gpus_in_two_hands_are_found() -> None:
    server, training = pod("server", server=True), pod("training", server=False)
    one_by_one = [
        ("ADDED", "Pod", server),
        ("DELETED", "Pod", server),
        ("ADDED", "Pod", training),
        ("MODIFIED", "Pod", pod("training", server=False, phase="Succeeded")),
        ("ADDED", "Pod", server),
    ]
    assert check_gpus(recording(*one_by_one)) == 2
    assert check_gpus(recording(("ADDED", "Pod", server), ("ADDED", "Pod", pod("cpu", server=False, gpus=0)))) == 0
    with pytest.raises(AssertionError, match="GPUs belong to"):
        check_gpus(recording(("ADDED", "Pod", server), ("ADDED", "Pod", training)))


def test_changes_are_told_once_and_in_the_order_of_storing() -> None:
    work, done = job(Ready="False", Reconciling="True"), job(Ready="True")
    record = recording(("ADDED", "SFTJob", work), ("MODIFIED", "SFTJob", work), ("MODIFIED", "SFTJob", done))
    record._versions.reverse()
    assert changes_of(record) == {"SFTJob/it": ["Ready=False Reconciling=True Reason", "Ready=True Reason"]}
    assert created_between(record, 0, 9) == ["SFTJob/it"]
    assert created_between(record, 1, 9) == []
