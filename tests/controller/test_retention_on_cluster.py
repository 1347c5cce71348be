"""Weights that go, and storage on a volume, as a cluster sees them: one operator, a played node."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from harness.control_plane.plane import ControlPlane
from harness.control_plane.player import Outcome, Pod, play, succeed
from harness.operator_process import grant, start_operator
from tests.controller.one_namespace import MODEL, QUICK, STORAGE, Scene, message, wait

RUN: dict[str, Any] = {
    "model": MODEL,
    "sft": {"ift": "s3://bucket/ift.jsonl"},
    "problems": "s3://bucket/problems.jsonl",
    "iterations": [{"questions": 4}, {"questions": 4}],
    "evaluations": [{"name": "fresh", "problems": "s3://bucket/test.jsonl"}],
    "trainingResources": {"gpus": 1},
    "server": {"resources": {"gpus": 1}},
    "retries": QUICK,
}
ON_VOLUME = {"uri": "file:///psr/runs", "volume": {"claimName": "psr-data", "mountPath": "/psr"}}


@pytest.fixture(scope="module")
def cluster(crds: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    scripts: dict[str, Callable[[Pod], Outcome]] = {}
    with (
        play(crds, script=lambda pod: scripts.get(pod.namespace, succeed)(pod)) as player,
        start_operator(grant(crds), tmp_path_factory.mktemp("operator"), poll_seconds=0.5) as operator,
    ):
        yield Scene(crds, player, "", scripts, operator.said)
        assert player.errors == []
        assert "Traceback" not in operator.said()


@pytest.fixture
def scene(cluster: Scene, namespace: str) -> Scene:
    return Scene(cluster.plane, cluster.player, namespace, cluster.scripts, cluster.said)


def bound_claim(scene: Scene, name: str) -> None:
    """A ReadWriteMany claim and its volume, bound as a controller would that this control plane does not have."""
    volume = f"{name}-{scene.namespace}"
    room = {"accessModes": ["ReadWriteMany"], "storageClassName": "none"}
    claim: dict[str, Any] = scene.plane.request(
        "POST",
        f"/api/v1/namespaces/{scene.namespace}/persistentvolumeclaims",
        {
            "metadata": {"name": name, "annotations": {"pv.kubernetes.io/bind-completed": "yes"}},
            "spec": {**room, "volumeName": volume, "resources": {"requests": {"storage": "1Gi"}}},
        },
    )
    reference = {"kind": "PersistentVolumeClaim", "name": name, "namespace": scene.namespace}
    spec = {
        **room,
        "capacity": {"storage": "1Gi"},
        "nfs": {"server": "192.0.2.1", "path": "/psr"},
        "claimRef": {**reference, "uid": claim["metadata"]["uid"]},
    }
    scene.plane.request("POST", "/api/v1/persistentvolumes", {"metadata": {"name": volume}, "spec": spec})


def weights(run: dict[str, Any]) -> list[str]:
    return [model["weights"] for model in run["status"]["models"]]


def test_weights_go_while_the_run_goes_on_and_all_at_once_when_it_is_told_later(scene: Scene) -> None:
    scene.make("SelfRewardRun", **RUN, storage=STORAGE | {"retention": "Last"})
    scene.make("SelfRewardRun", "other", **RUN, storage=STORAGE)
    assert weights(scene.until("SelfRewardRun", "Succeeded")) == ["Pruned", "Pruned", "Kept"]
    assert weights(scene.until("SelfRewardRun", "Succeeded", "other")) == ["Kept"] * 3
    assert [name for name in scene.names("Job") if "prune" in name] == ["it-prune-m1-a1", "it-prune-m2-a1"]
    children = {kind: scene.plane.request("GET", scene.path(kind))["items"] for kind in ("ModelEvaluation", "SFTJob")}

    scene.change("SelfRewardRun", "other", storage={"retention": "Last"})
    assert weights(scene.until("SelfRewardRun", "Succeeded", "other")) == ["Pruned", "Pruned", "Kept"]
    for kind, before in children.items():
        after = scene.plane.request("GET", scene.path(kind))["items"]
        generations = [[item["metadata"]["generation"] for item in items] for items in (before, after)]
        assert generations[0] == generations[1], "a run's children do not change with what it says of weights"


def test_a_removal_that_fails_for_good_is_an_event_and_the_run_gets_ready(scene: Scene) -> None:
    def script(pod: Pod) -> Outcome:
        if pod.stage == "prune" and "m1" in pod.workload:
            return Outcome(code=66, message=json.dumps({"error": "S3 refused the credentials (AccessDenied)"}))
        return succeed(pod)

    scene.play(script)
    scene.make("SelfRewardRun", **RUN, storage=STORAGE | {"retention": "Last"})
    item = scene.until("SelfRewardRun", "Succeeded")
    assert weights(item) == ["Pruning", "Pruned", "Kept"]
    assert "weights of M1 were not removed: InputMissing: S3 refused the credentials" in message(item)
    events = scene.plane.request("GET", scene.path("Event"))["items"]
    (event,) = (item for item in events if item["reason"] == "PruneFailed")
    assert (event["type"], "AccessDenied" in event["message"]) == ("Warning", True)
    scene.play(succeed)
    scene.change("SelfRewardRun", searchShards=2)
    wait(lambda: weights(scene.until("SelfRewardRun", "Succeeded")) == ["Pruned", "Pruned", "Kept"])


def test_files_without_a_volume_are_refused(scene: Scene) -> None:
    job = {"model": MODEL, "pairs": "s3://bucket/pairs"}
    scene.make("StepDPOJob", **job, storage={"uri": "file:///psr/runs"})
    assert "output: file:///psr/runs/" in message(scene.until("StepDPOJob", "VolumeMissing"))
    scene.make("StepDPOJob", "outside", model={"uri": "file:///models/m"}, pairs=job["pairs"], storage=ON_VOLUME)
    assert "model.uri: file:///models/m" in message(scene.until("StepDPOJob", "VolumeMissing", "outside"))
    scene.make("PolicyServer", "serving", model={"uri": "file:///models/m"})
    scene.until("PolicyServer", "VolumeMissing", "serving")
    assert scene.names("Job") == []
    assert "serving" not in scene.names("Deployment")


def test_a_run_on_a_volume_reads_and_writes_there(scene: Scene) -> None:
    on_volume = {key: {"uri": "file:///psr/models/m"} if key == "model" else value for key, value in RUN.items()}
    bound_claim(scene, "psr-data")
    scene.make("SelfRewardRun", **on_volume, storage=ON_VOLUME | {"retention": "Last"})
    item = scene.until("SelfRewardRun", "Succeeded")
    assert weights(item) == ["Pruned", "Pruned", "Kept"]
    for item in scene.plane.request("GET", scene.path("Job"))["items"]:
        mounts = item["spec"]["template"]["spec"]["containers"][0]["volumeMounts"]
        assert {"name": "storage", "mountPath": "/psr"} in mounts, item["metadata"]["name"]
    (deployment,) = scene.plane.request("GET", scene.path("Deployment"))["items"]
    mounts = deployment["spec"]["template"]["spec"]["containers"][0]["volumeMounts"]
    assert {"name": "storage", "mountPath": "/psr", "readOnly": True} in mounts
