"""A run that an operator of the first version left half done goes on under the operator of the day.

Its objects are put into a new control plane as an apiserver held them, statuses included, while one stage is at work.
Nothing that is finished is made again, what runs is left to run, and the run becomes Ready. `README.md` says what was
recorded.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harness.control_plane.plane import APIError, ControlPlane
from harness.operator_process import Operator, grant, start_operator
from psr_operator.api import KINDS
from tests.before.cluster import HELD, Held, scene
from tests.before.objects import put
from tests.controller.one_namespace import JOB
from tests.controller.one_run import RUN as NAME
from tests.controller.one_run import SERVER, Place

Object = dict[str, Any]
RECORDED: dict[str, list[Object]] = json.loads(Path(__file__).with_name("objects.json").read_text())
JOBS = {
    f"{NAME}-{name}-a1"
    for name in (
        *("sft", "m1-fresh", "1-pairs-search", "1-pairs-merge", "1-dpo", "m2-fresh"),
        *("2-pairs-search", "2-pairs-merge", "2-dpo", "m3-fresh", "report-m3"),
    )
}
"""Every Job of the whole run: one attempt of each step."""
LASTING = ("output", "digest", "done", "attempts")
"""Fields of a status that stay as they are once the object is finished."""


@dataclass(frozen=True)
class Scene:
    """The run of before, put into a control plane; no operator looks at it yet."""

    place: Place
    held: Held
    recorded: dict[tuple[str, str], Object]
    folder: Path

    def status(self, kind: str, name: str) -> Object:
        item = self.place.get(kind, name)
        assert item is not None, f"{kind}/{name} is gone"
        status: Object = item["status"]
        return status

    def uids(self, kind: str) -> dict[str, str]:
        """Name and uid of every object of a kind."""
        return {item["metadata"]["name"]: item["metadata"]["uid"] for item in self.place.all(kind)}

    def generations(self, kind: str) -> dict[str, int]:
        """Name and generation of every object of a kind."""
        return {item["metadata"]["name"]: item["metadata"]["generation"] for item in self.place.all(kind)}

    def attempts(self) -> dict[str, Object]:
        """Attempts of everything that makes any."""
        objects = {f"{kind}/{item['metadata']['name']}": item for kind in KINDS for item in self.place.all(kind)}
        return {name: item["status"]["attempts"] for name, item in objects.items() if item["status"].get("attempts")}

    def finished(self) -> dict[str, Object]:
        """What the finished objects say of their work."""
        return {name: {field: self.status(kind, name)[field] for field in LASTING} for kind, name in self.held.finished}


@pytest.fixture(params=sorted(HELD))
def before(request: pytest.FixtureRequest, crds: ControlPlane, tmp_path: Path) -> Iterator[Scene]:
    state = request.param
    with scene(crds, state) as place:
        account = f"/api/v1/namespaces/{place.namespace}/serviceaccounts/default"
        place.until(lambda: _there(crds, account), account)
        put(crds, place.namespace, RECORDED[state])
        recorded = {(item["kind"], item["metadata"]["name"]): item for item in RECORDED[state]}
        begun = Scene(place, HELD[state], recorded, tmp_path)
        place.until(lambda: _at_work(begun), f"{begun.held.job} at work")
        yield begun
        place.judge()


def test_a_run_of_before_goes_on(before: Scene) -> None:
    place, held = before.place, before.held
    jobs, attempts, finished = before.uids("Job"), before.attempts(), before.finished()
    deployments, pods = before.uids("Deployment"), before.uids("Pod")
    generations = before.generations("Deployment")
    assert finished == {
        name: {field: before.recorded[kind, name]["status"][field] for field in LASTING} for kind, name in held.finished
    }
    with operator_of_the_day(before) as operator:
        until_it_has_looked(place, operator)
        assert before.uids("Job") == jobs, "what is finished, or runs, is made again"
        assert before.uids("Deployment") == deployments
        assert before.generations("Deployment") == generations, "a server is rolled"
        assert before.uids("Pod") == pods, "a pod was replaced"
        assert before.attempts() == attempts

        assert place.player.release(held.job) == sum(held.job in name for name in pods)
        place.until_done()
    assert before.finished() == finished
    after = before.uids("Job")
    assert set(after) == JOBS
    assert {name: after[name] for name in jobs} == jobs
    assert before.uids("Deployment") == deployments
    for name, steps in before.attempts().items():
        for step, counts in steps.items():
            assert (counts["attempt"], counts["failures"], counts["disruptions"]) == (1, 0, 0), f"{name}: {step}"
    check_models(before)
    key = place.get("Secret", f"{SERVER}-key")
    assert key is not None
    assert key["data"] == before.recorded["Secret", f"{SERVER}-key"]["data"]


def operator_of_the_day(before: Scene) -> AbstractContextManager[Operator]:
    """The operator, while the block lasts."""
    namespace = before.place.namespace
    return start_operator(grant(before.place.plane, [namespace]), before.folder, namespaces=[namespace])


def until_it_has_looked(place: Place, operator: Operator) -> None:
    """Wait until the operator has come to an object that was made after all others."""
    place.until(operator.leads, "the lease")
    last = {"apiVersion": "psr.dev/v1alpha1", "kind": "StepDPOJob", "metadata": {"name": "last"}}
    place.make({**last, "spec": {**JOB, "suspend": True}})
    place.until_reason("Suspended", "StepDPOJob", "last")
    place.delete("StepDPOJob", "last")


def check_models(before: Scene) -> None:
    """M1 is the recorded one; M2 and M3 were made, each from the one before."""
    models = before.status("SelfRewardRun", NAME)["models"]
    assert [model["name"] for model in models] == ["M1", "M2", "M3"]
    (first, *_) = before.recorded["SelfRewardRun", NAME]["status"]["models"]
    for field in ("uri", "digest"):
        assert models[0][field] == first[field]
    assert [model["pairs"] is not None for model in models[:2]] == [True, True]
    assert [model["accuracy"].keys() for model in models] == [{"fresh"}] * 3


def _at_work(scene: Scene) -> bool:
    """Whether the stage that is held runs, and the server serves where it is to."""
    place = scene.place
    pods = [pod for pod in place.all("Pod") if pod["spec"].get("nodeName") == place.player.node]
    running = [pod["metadata"]["name"] for pod in pods if pod["status"].get("phase") == "Running"]
    wanted = [
        item for item in scene.recorded.values() if item["kind"] == "Pod" and item["status"]["phase"] == "Running"
    ]
    return len(running) == len(wanted) and all(_is_ready(pod) for pod in pods)


def _is_ready(pod: Object) -> bool:
    conditions = pod["status"].get("conditions", ())
    return any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)


def _there(plane: ControlPlane, path: str) -> bool:
    try:
        return bool(plane.request("GET", path))
    except APIError:
        return False
