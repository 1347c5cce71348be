"""A run whose surroundings fail: objects vanish unseen, statuses are lost, names are taken, the apiserver is ill."""

from __future__ import annotations

import contextlib
import itertools
import random
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harness.control_plane import client
from harness.control_plane.plane import APIError, ControlPlane, start_control_plane
from harness.control_plane.player import Outcome, Pod, succeed
from harness.operator_process import Operator, grant, start_operator
from psr_operator.api.crd import rendered
from tests.controller.one_run import RUN, SERVER, Object, Place, place_for, run
from tests.controller.proxy import Proxy, Request, start_proxy

TRAINING = f"{RUN}-1-dpo"


@dataclass
class Operated:
    """A place, its operator, and the proxy between it and the apiserver."""

    place: Place
    proxy: Proxy
    operator: Operator

    def until_training(self, attempt: int = 1) -> None:
        """Wait until the training runs."""
        self.place.until(lambda: self.place.player.pods(f"{TRAINING}-a{attempt}"), "training")
        self.place.until_reason("Training", "StepDPOJob", TRAINING)
        self.place.until_reason("Training")

    def nothing_twice(self) -> None:
        created = self.proxy.created()
        assert max(created.values()) == 1, created


@contextlib.contextmanager
def operated(
    plane: ControlPlane, name: str, folder: Path, script: Callable[[Pod], Outcome] = succeed, **options: Any
) -> Iterator[Operated]:
    """An operator of one namespace that looks for what vanished, and at what was in the way, every two seconds."""
    with place_for(plane, name, script) as place, start_proxy(plane) as proxy:
        account = grant(plane, [place.namespace])
        settings = {"resync_seconds": 2.0, **options}
        with start_operator(account, folder, namespaces=[place.namespace], server=proxy.url, **settings) as operator:
            try:
                yield Operated(place, proxy, operator)
            except AssertionError:
                print(operator.said()[-6000:])
                raise
        place.judge()


def held_training(pod: Pod) -> Outcome:
    """The first attempt of a training runs until it is let go."""
    return Outcome(hold=True) if pod.stage == "step-dpo" and pod.attempt == 1 else succeed(pod)


# --- what no watch tells


def test_a_change_that_no_watch_tells_is_found_when_a_status_is_written(crds: ControlPlane, tmp_path: Path) -> None:
    """The status was planned from an older version: the apiserver refuses it, and the object is read anew."""
    with operated(crds, "unheard", tmp_path, held_training, resync_seconds=600.0, poll_seconds=0.5) as it:
        it.place.make(run())
        it.until_training()
        it.proxy.mute_watches()
        path = it.place.path("StepDPOJob", TRAINING)
        labels = {"metadata": {"labels": {"changed": "by-somebody"}}}
        it.place.plane.request("PATCH", path, labels, content="application/merge-patch+json")
        it.place.player.progress(f"{TRAINING}-a1", done=40, total=100)
        it.place.until(
            lambda: str((it.place.get("StepDPOJob", TRAINING) or {})["status"].get("progress", "")).startswith("40%"),
            "progress in a status whose object the watch is behind of",
        )
        it.proxy.expire_watches()
        it.place.player.release(f"{TRAINING}-a1")
        it.place.until_done()
        it.nothing_twice()


def test_a_job_vanishes_while_the_watches_are_cut(crds: ControlPlane, tmp_path: Path) -> None:
    """A deleted Job is a disruption: a new attempt, once nothing of the last one is left."""
    with operated(crds, "vanished-job", tmp_path, held_training) as it:
        it.place.make(run())
        it.until_training()
        it.proxy.mute_watches()
        it.place.delete("Job", f"{TRAINING}-a1")
        gone(it.place, "Job", f"{TRAINING}-a1")
        it.proxy.expire_watches()
        it.place.until_done()
        attempts = it.place.get("StepDPOJob", TRAINING)["status"]["attempts"]["train"]
        assert (attempts["attempt"], attempts["disruptions"], attempts["failures"]) == (2, 1, 0)
        assert {name for name in it.place.names("Job") if name.startswith(TRAINING)} == {f"{TRAINING}-a2"}
        it.nothing_twice()


def test_a_child_vanishes_while_the_watches_are_cut(
    crds: ControlPlane, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    """A deleted child is made again, and begins anew."""
    released: list[str] = []

    def script(pod: Pod) -> Outcome:
        return succeed(pod) if released else held_training(pod)

    with operated(crds, "vanished-child", tmp_path, script) as it:
        it.place.make(run())
        it.until_training()
        before = it.place.get("StepDPOJob", TRAINING)["metadata"]["uid"]
        it.proxy.mute_watches()
        it.place.delete("StepDPOJob", TRAINING)
        gone(it.place, "StepDPOJob", TRAINING)
        gone(it.place, "Job", f"{TRAINING}-a1")
        released.append("from now on")
        it.proxy.expire_watches()
        it.place.until_state(undisturbed)
        assert it.place.get("StepDPOJob", TRAINING)["metadata"]["uid"] != before
        assert {name for name, count in it.proxy.created().items() if count > 1} == {
            f"stepdpojobs {it.place.namespace}/{TRAINING}",
            f"jobs {it.place.namespace}/{TRAINING}-a1",
        }


def gone(place: Place, kind: str, name: str) -> None:
    """Wait until nothing of an object is left."""
    place.until(lambda: place.get(kind, name) is None, f"the end of {kind}/{name}")
    place.until(lambda: not place.player.pods(name), f"the end of the pods of {name}")


# --- what is forgotten


def test_statuses_are_wiped(crds: ControlPlane, undisturbed: dict[str, Any], tmp_path: Path) -> None:
    """A running leaf's, finished ones', the server's, the parents': each is reported again, nothing is done again."""
    with operated(crds, "wiped", tmp_path, held_training) as it:
        it.place.make(run())
        it.until_training()
        for kind, name in (
            ("StepDPOJob", TRAINING),
            ("PreferenceGeneration", f"{RUN}-1-pairs"),
            ("ModelEvaluation", f"{RUN}-m1-fresh"),
            ("PolicyServer", SERVER),
            ("SelfRewardIteration", f"{RUN}-1"),
            ("SelfRewardRun", RUN),
        ):
            stood = it.place.ready(kind, name)["reason"]
            wipe(it.place, kind, name)
            it.place.until_reason(stood, kind, name)
        it.place.player.release(f"{TRAINING}-a1")
        it.place.until_state(undisturbed)
        it.nothing_twice()
        for kind, name in (("SelfRewardRun", RUN), ("StepDPOJob", TRAINING)):
            wipe(it.place, kind, name)
            it.place.until_reason("Succeeded", kind, name)
        it.place.until_state(undisturbed)
        it.nothing_twice()


def wipe(place: Place, kind: str, name: str) -> None:
    """Store an empty status."""

    def stored() -> bool:
        try:
            place.plane.request("PUT", place.path(kind, name, "status"), {**place.get(kind, name), "status": {}})
        except APIError as error:
            if error.code == 409:
                return False
            raise
        return True

    place.until(stored, f"an empty status of {kind}/{name}")


# --- what is somebody else's


JOB = {
    "apiVersion": "batch/v1",
    "kind": "Job",
    "metadata": {"name": f"{TRAINING}-a1"},
    "spec": {
        "suspend": True,
        "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "mine", "image": "mine:1"}]}},
    },
}
CHILD = {
    "apiVersion": "psr.dev/v1alpha1",
    "kind": "StepDPOJob",
    "metadata": {"name": TRAINING},
    "spec": {
        "model": {"uri": "s3://mine/model"},
        "pairs": "s3://mine/pairs",
        "storage": {"uri": "s3://mine/runs"},
        "suspend": True,
    },
}
SECRET = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": f"{SERVER}-key"}, "stringData": {"key": "mine"}}


@pytest.mark.parametrize(
    ("foreign", "kind", "name"),
    [
        (JOB, "StepDPOJob", TRAINING),
        (CHILD, "SelfRewardIteration", f"{RUN}-1"),
        (SECRET, "PolicyServer", SERVER),
    ],
    ids=["job", "child", "secret"],
)
def test_a_name_is_taken(
    crds: ControlPlane, undisturbed: dict[str, Any], tmp_path: Path, foreign: Object, kind: str, name: str
) -> None:
    """Whoever needs it is Stalled and names it; it is left alone; when it is gone, the run goes on."""
    with operated(crds, f"taken-{foreign['kind'].lower()}", tmp_path) as it:
        before = it.place.make(foreign)
        it.place.make(run())
        ready = it.place.until_reason("NameCollision", kind, name)
        taken = f"{foreign['kind']}/{foreign['metadata']['name']}"
        assert taken in ready["message"]
        stalled = it.place.until_reason("NameCollision")  # so says the run
        assert taken in stalled["message"]
        now = it.place.get(foreign["kind"], foreign["metadata"]["name"])
        assert now["metadata"]["uid"] == before["metadata"]["uid"]
        assert now["metadata"].get("ownerReferences") is None
        assert {key: now.get(key) for key in ("spec", "data")} == {key: before.get(key) for key in ("spec", "data")}
        it.place.delete(foreign["kind"], foreign["metadata"]["name"])
        it.place.until_state(undisturbed)
        it.nothing_twice()


# --- what the apiserver does


def test_requests_are_refused(crds: ControlPlane, undisturbed: dict[str, Any], tmp_path: Path) -> None:
    """Many are answered with 429 or 500 for a while; then nothing works at all for a while."""
    count, chance = itertools.count(), random.Random(0)

    def refuse(_request: Request) -> int | None:
        number = next(count)
        ill = number in range(100, 120) or (number < 70 and chance.random() < 0.4)
        return chance.choice([429, 500]) if ill else None

    with operated(crds, "refused", tmp_path, lease_seconds=60.0) as it:
        it.proxy.refuse = refuse
        it.place.make(run())
        it.place.until_state(undisturbed)
        assert it.proxy.refused > 30
        it.nothing_twice()


def test_the_apiserver_is_slow(crds: ControlPlane, undisturbed: dict[str, Any], tmp_path: Path) -> None:
    """Every answer takes a while, each another one: a write may be known late."""
    pauses = itertools.cycle([0.0, 0.4, 0.1, 0.7, 0.2])
    with operated(crds, "slow", tmp_path, lease_seconds=30.0) as it:
        it.proxy.delay = lambda _request: next(pauses)
        it.place.make(run())
        it.place.until_state(undisturbed)
        it.nothing_twice()


def test_the_apiserver_restarts(undisturbed: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is killed in the middle of a run and comes back at the same address."""
    monkeypatch.setattr(client, "RECONNECTIONS", 500)  # the player waits for it, too
    with start_control_plane(tmp_path / "plane") as plane:
        plane.ctl("apply", "--server-side", "-f", "-", stdin="---\n".join(rendered().values()))
        plane.ctl("wait", "--for=condition=Established", "--timeout=60s", "crd", "--all")
        with operated(plane, "restarted", tmp_path, held_training, lease_seconds=120.0) as it:
            it.place.make(run())
            it.until_training()
            old = plane.processes["kube-apiserver"]
            old.send_signal(signal.SIGKILL)
            old.wait()
            with open(tmp_path / "apiserver-again.log", "wb") as log:
                plane.processes["kube-apiserver"] = subprocess.Popen(
                    old.args, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
                )
            it.place.until(lambda: serves(plane), "the apiserver's return")
            it.place.player.release(f"{TRAINING}-a1")
            it.place.until_state(undisturbed)
            it.nothing_twice()
            assert it.operator.process.poll() is None


def serves(plane: ControlPlane) -> bool:
    try:
        return bool(plane.request("GET", "/readyz") == "ok")
    except (APIError, OSError):
        return False
