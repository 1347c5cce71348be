"""Clusters as people have them: quotas, limits, webhooks, sidecars, missing images and volumes, hands that delete and
scale, kinds of another version. One operator for all; what keeps work from going on is said up to the run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from harness.control_plane.plane import APIError, ControlPlane
from harness.control_plane.player import Outcome, Pod, play, succeed
from harness.operator_process import grant, start_operator
from tests.controller.one_namespace import JOB, MODEL, STORAGE, Scene, message, pods, wait
from tests.controller.webhook import injected, webhook

MERGE = "application/merge-patch+json"
RUN = {
    "model": MODEL,
    "problems": "s3://bucket/problems.jsonl",
    "sft": {"ift": "s3://bucket/ift.jsonl"},
    "iterations": [{"questions": 4}],
    "evaluations": [{"name": "fresh", "problems": "s3://bucket/test.jsonl"}],
    "storage": STORAGE,
    "retries": {"backoffSeconds": 0},
}
SECONDS = 60.0


@pytest.fixture(scope="module")
def cluster(crds: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    scripts: dict[str, Callable[[Pod], Outcome]] = {}
    with (
        play(crds, script=lambda pod: scripts.get(pod.namespace, succeed)(pod)) as player,
        start_operator(
            grant(crds), tmp_path_factory.mktemp("operator"), poll_seconds=0.5, resync_seconds=3.0
        ) as operator,
    ):
        yield Scene(crds, player, "", scripts, operator.said)
        assert player.errors == []
        assert "Traceback" not in operator.said()


@pytest.fixture
def scene(cluster: Scene, namespace: str) -> Scene:
    return Scene(cluster.plane, cluster.player, namespace, cluster.scripts, cluster.said)


def until_said(scene: Scene, words: str, kind: str = "SelfRewardRun") -> dict[str, Any]:
    """Wait until an object says these words; the object."""

    def said() -> bool:
        item = scene.get(kind)
        return item is not None and bool(item["status"].get("conditions")) and words in message(item)

    try:
        wait(said, SECONDS)
    except AssertionError:
        raise AssertionError(
            f"{words}: {json.dumps((scene.get(kind) or {}).get('status'))}\n{scene.said()[-2000:]}"
        ) from None
    item = scene.get(kind)
    assert item is not None
    return item


# --- why nothing happens


def quota(scene: Scene) -> None:
    body = {"metadata": {"name": "full"}, "spec": {"hard": {"pods": "0"}}}
    scene.plane.request("POST", f"/api/v1/namespaces/{scene.namespace}/resourcequotas", body)
    status = {"status": {"hard": {"pods": "0"}, "used": {"pods": "0"}}}  # its controller does not run here
    path = f"/api/v1/namespaces/{scene.namespace}/resourcequotas/full/status"
    scene.plane.request("PATCH", path, status, content=MERGE)


def limits(scene: Scene) -> None:
    item = {"type": "Container", "max": {"memory": "1Gi"}}
    body = {"metadata": {"name": "small"}, "spec": {"limits": [item]}}
    scene.plane.request("POST", f"/api/v1/namespaces/{scene.namespace}/limitranges", body)


@pytest.mark.parametrize(
    ("forbid", "words"), [(quota, "exceeded quota: full"), (limits, "maximum memory usage per Container is 1Gi")]
)
def test_pods_that_the_namespace_forbids_are_said_at_the_run(
    scene: Scene, forbid: Callable[[Scene], None], words: str
) -> None:
    """Only an event of the Job says so."""
    forbid(scene)
    scene.make("SelfRewardRun", **RUN, trainingResources={"memory": "8Gi"})
    item = until_said(scene, words)
    assert "SFTJob/it-sft: it-sft-a1: FailedCreate: " in message(item)
    assert words in item["status"]["blocked"]


def test_a_quota_of_a_server_is_said_at_the_run_and_bounded_by_the_deadline(scene: Scene) -> None:
    """The ReplicaSet's controller says so in a condition of the Deployment."""
    quota(scene)
    spec = {key: value for key, value in RUN.items() if key != "sft"}
    scene.make("SelfRewardRun", **spec)
    item = until_said(scene, "exceeded quota: full")
    assert "PolicyServer/it-server: " in message(item)
    scene.change("SelfRewardRun", schedulingDeadlineSeconds=2)
    item = scene.until("SelfRewardRun", "SchedulingDeadlineExceeded")
    assert "exceeded quota: full" in message(item)


def test_a_webhook_that_is_down_is_said_at_the_run_and_the_work_goes_on_after_it(scene: Scene) -> None:
    with webhook(scene.plane, scene.namespace, "validating", 1, "batch", "jobs"):
        scene.make("SelfRewardRun", **RUN)
        item = until_said(scene, "failed calling webhook")
        assert "SFTJob/it-sft" in message(item)
    done = scene.until("SelfRewardRun", "Succeeded", seconds=120)
    assert "blocked" not in done["status"]


def container(name: str) -> dict[str, Any]:
    """The status of a container, as far as every one has it."""
    return {"name": name, "image": "i", "imageID": "", "ready": False, "restartCount": 0}


def held_before_its_start(pod: Pod) -> Outcome:
    return Outcome(start_seconds=600)


def pending_pod(scene: Scene) -> dict[str, Any]:
    """The one pod that is bound and has not begun."""
    wait(lambda: [pod for pod in pods(scene) if pod["spec"].get("nodeName")] != [])
    (pod,) = pods(scene)
    return pod


def test_an_image_that_cannot_be_pulled_is_said_at_the_run(scene: Scene) -> None:
    scene.play(held_before_its_start)
    scene.make("SelfRewardRun", **RUN)
    pod = pending_pod(scene)
    waiting = {"reason": "ImagePullBackOff", "message": "manifest unknown"}
    status = {
        "name": "stage",
        "image": "i",
        "imageID": "",
        "ready": False,
        "restartCount": 0,
        "state": {"waiting": waiting},
    }
    body = {"status": {"containerStatuses": [status]}}
    path = scene.path("Pod", pod["metadata"]["name"])
    scene.plane.request("PATCH", f"{path}/status", body, content=MERGE)
    until_said(scene, "ImagePullBackOff: manifest unknown")


def test_a_volume_that_cannot_be_mounted_is_said_at_the_run(scene: Scene) -> None:
    scene.play(held_before_its_start)
    scene.make("SelfRewardRun", **RUN)
    meta = pending_pod(scene)["metadata"]
    about = {"apiVersion": "v1", "kind": "Pod", "name": meta["name"], "namespace": scene.namespace, "uid": meta["uid"]}
    event = {
        "metadata": {"name": "mount"},
        "involvedObject": about,
        "type": "Warning",
        "reason": "FailedMount",
        "message": 'MountVolume.SetUp failed: secret "storage-ca" not found',
        "lastTimestamp": "2030-01-01T00:00:00Z",
        "source": {"component": "kubelet"},
    }
    scene.plane.request("POST", scene.path("Event"), event)
    until_said(scene, 'FailedMount: MountVolume.SetUp failed: secret "storage-ca" not found')


def test_a_lack_of_memory_is_said_at_the_run_of_a_training_and_of_a_server(scene: Scene) -> None:
    scene.play(lambda pod: Outcome(code=137, reason="OOMKilled") if pod.stage == "sft" else succeed(pod))
    scene.make("SelfRewardRun", **{**RUN, "retries": {"backoffLimit": 0}})
    until_said(scene, "OOMKilled: its memory limit is too small")
    scene.play(lambda pod: succeed(pod) if pod.stage else Outcome(code=137, reason="OOMKilled"))
    scene.change("SelfRewardRun", retries={"backoffLimit": 1})
    item = until_said(scene, "PolicyServer/it-server")
    assert "OOMKilled" in message(item)


def test_a_control_port_that_nobody_answers_is_said(scene: Scene) -> None:
    """The pod runs and kubelet calls it ready: a NetworkPolicy keeps the operator out."""
    scene.play(lambda pod: Outcome(hold=True))
    scene.make("PolicyServer", model=MODEL, storage=STORAGE)
    scene.until("PolicyServer", "Serving")
    (pod,) = pods(scene)
    deaf = {"status": {"podIP": "127.255.255.254", "podIPs": [{"ip": "127.255.255.254"}]}}
    scene.play(held_before_its_start)
    scene.make("PolicyServer", "deaf", model=MODEL, storage=STORAGE)
    wait(lambda: len([item for item in pods(scene) if item["spec"].get("nodeName")]) == 2)
    (name,) = {item["metadata"]["name"] for item in pods(scene)} - {pod["metadata"]["name"]}
    running = {
        "name": "server",
        "image": "i",
        "imageID": "",
        "ready": True,
        "restartCount": 0,
        "state": {"running": {}},
    }
    body = {"status": {**deaf["status"], "phase": "Running", "containerStatuses": [running]}}
    scene.plane.request("PATCH", f"{scene.path('Pod', name)}/status", body, content=MERGE)
    wait(lambda: "control port" in ((scene.get("PolicyServer", "deaf") or {})["status"].get("blocked") or ""))


# --- sidecars


def test_a_sidecar_before_our_container_changes_nothing(scene: Scene) -> None:
    with injected(scene.plane, scene.namespace):
        scene.make("SelfRewardRun", **RUN)
        done = scene.until("SelfRewardRun", "Succeeded", seconds=120)
    (first, *_) = [pod for pod in pods(scene) if "psr.dev/stage" in pod["metadata"]["labels"]]
    assert [item["name"] for item in first["spec"]["containers"]] == ["a-proxy", "stage"]
    assert done["status"]["models"][-1]["name"] == "M2"


# --- what is ours is put right


def test_what_belongs_to_a_server_comes_back_and_a_scaled_one_is_put_right(scene: Scene) -> None:
    scene.make("PolicyServer", model=MODEL, storage=STORAGE)
    scene.until("PolicyServer", "Serving")
    names = {"Secret": "it-key", "ConfigMap": "it-serve", "Service": "it", "PodDisruptionBudget": "it"}
    before = {kind: scene.get(kind, name) for kind, name in names.items()}
    uids = [pod["metadata"]["uid"] for pod in pods(scene)]
    for kind, name in names.items():
        scene.plane.request("DELETE", scene.path(kind, name))

    def is_back(kind: str, name: str) -> bool:
        item, was = scene.get(kind, name), before[kind]
        return item is not None and was is not None and item["metadata"]["uid"] != was["metadata"]["uid"]

    wait(lambda: all(is_back(kind, name) for kind, name in names.items()))
    secret, was = scene.get("Secret", "it-key"), before["Secret"]
    assert secret is not None
    assert was is not None
    assert secret["data"] == was["data"], "its pods have this key"
    scale = {"spec": {"replicas": 3}}
    scene.plane.request("PATCH", f"{scene.path('Deployment', 'it')}/scale", scale, content=MERGE)
    wait(lambda: (scene.get("Deployment", "it") or {})["spec"]["replicas"] == 1)
    scene.plane.request("DELETE", scene.path("Deployment", "it"), {"propagationPolicy": "Background"})
    wait(lambda: [pod["metadata"]["uid"] for pod in pods(scene)] not in ([], uids))
    scene.until("PolicyServer", "Serving")


# --- two managers, two kinds, two versions


def test_two_managers_of_one_file_are_in_no_conflict(scene: Scene) -> None:
    """Also about what the apiserver fills in: it fills nothing into items that have no key."""
    toleration = {"key": "gpu", "effect": "NoSchedule"}
    spec = {**RUN, "suspend": True, "trainingPod": {"tolerations": [toleration], "env": [{"name": "A", "value": "1"}]}}
    body = {"apiVersion": "psr.dev/v1alpha1", "kind": "SelfRewardRun", "metadata": {"name": "it"}, "spec": spec}

    def apply(manager: str, spec: dict[str, Any]) -> dict[str, Any]:
        path = f"{scene.path('SelfRewardRun', 'it')}?fieldManager={manager}&fieldValidation=Strict"
        text = json.dumps({**body, "spec": spec})
        item: dict[str, Any] = scene.plane.request("PATCH", path, text, content="application/apply-patch+yaml")
        return item

    generations = {apply(manager, spec)["metadata"]["generation"] for manager in ("flux", "argocd", "flux")}
    assert generations == {1}
    # What an earlier version has stored spells the default out; the file does not, and is taken.
    scene.change("SelfRewardRun", iterations=[{"questions": 4, "allowReuse": False}])
    scene.change("SelfRewardRun", iterations=[{"questions": 4}, {"questions": 8}])
    with pytest.raises(APIError, match="iterations can only grow"):
        scene.change("SelfRewardRun", iterations=[{"questions": 4, "allowReuse": True}, {"questions": 8}])


def test_jobs_of_two_kinds_with_one_name_do_not_collide(scene: Scene) -> None:
    scene.make("StepDPOJob", **JOB)
    first = scene.until("StepDPOJob", "Succeeded")
    scene.make("SFTJob", model=MODEL, ift="s3://bucket/ift.jsonl", storage=STORAGE)
    second = scene.until("SFTJob", "Succeeded")
    assert scene.names("Job") == ["it-a1", "it-sft-a1"]
    assert first["status"]["output"].startswith(f"{STORAGE['uri']}/{scene.namespace}/it/")
    assert second["status"]["output"].startswith(f"{STORAGE['uri']}/{scene.namespace}/it-sft/")


def definition(plural: str) -> str:
    return f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{plural}.psr.dev"


def test_kinds_that_are_newer_and_older_by_a_field_disturb_no_run(scene: Scene) -> None:
    """While a run goes: the run's and the training's get a field in spec and status, the training's loses one of its
    status, and the server's one of its spec that the run hands down."""
    plane, schema = scene.plane, "/spec/versions/0/schema/openAPIV3Schema/properties"
    text = {"type": "string", "maxLength": 8}
    places = [
        (kind, f"{schema}/{part}/properties/future")
        for kind in ("selfrewardruns", "stepdpojobs")
        for part in ("spec", "status")
    ]
    lost = [
        ("stepdpojobs", f"{schema}/status/properties/runningSince"),
        ("policyservers", f"{schema}/spec/properties/schedulingDeadlineSeconds"),
    ]
    kept = {}

    def patch(plural: str, **operation: Any) -> None:
        plane.request("PATCH", definition(plural), [operation], content="application/json-patch+json")

    def at(plural: str, place: str) -> Any:
        node = plane.request("GET", definition(plural))
        for part in place.strip("/").split("/"):
            node = node[int(part)] if part.isdecimal() else node[part]
        return node

    scene.play(lambda pod: Outcome(hold=True) if pod.stage == "sft" else succeed(pod))
    scene.make("SelfRewardRun", **RUN, schedulingDeadlineSeconds=600)
    scene.until("SFTJob", "Training", "it-sft")
    try:
        for plural, place in places:
            patch(plural, op="add", path=place, value=text)
        for plural, place in lost:
            kept[(plural, place)] = at(plural, place)
            patch(plural, op="remove", path=place)
        wait(lambda: takes_future(scene))
        scene.player.release("it-sft-a1")
        done = scene.until("SelfRewardRun", "Succeeded", seconds=120)
        assert done["spec"]["future"] == "words"
        assert done["status"]["future"] == "later"
        server = scene.get("PolicyServer", "it-server")
        assert server is not None
        assert "schedulingDeadlineSeconds" not in server["spec"]
        assert scene.said().count("PolicyServer.spec.schedulingDeadlineSeconds is not stored") == 1
        assert scene.said().count("StepDPOJob.status.runningSince is not stored") == 1
        assert "Stalled" not in scene.said()
    finally:
        for plural, place in places:
            patch(plural, op="remove", path=place)
        for (plural, place), value in kept.items():
            patch(plural, op="add", path=place, value=value)
        wait(lambda: bool(re.search("schedulingDeadlineSeconds", plane.ctl("explain", "policyservers.spec"))))


def takes_future(scene: Scene) -> bool:
    """Whether the apiserver keeps the new fields of the run already."""
    path = scene.path("SelfRewardRun", "it")
    scene.plane.request("PATCH", path, {"spec": {"future": "words"}}, content=MERGE)
    item = scene.plane.request("PATCH", f"{path}/status", {"status": {"future": "later"}}, content=MERGE)
    return "future" in item["spec"] and "future" in item["status"]
