"""What a user does with objects on a cluster, and what they then say: one operator, a played node."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.control_plane.plane import APIError, ControlPlane
from harness.control_plane.player import Outcome, Pod, play, succeed
from harness.operator_process import grant, start_operator
from tests.controller.one_namespace import JOB, MODEL, QUICK, STORAGE, Scene, message, pods, wait


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


GENERATION = {
    "model": MODEL,
    "problems": "s3://bucket/problems.jsonl",
    "questions": {"count": 10},
    "storage": STORAGE,
    "server": {"inline": {}},
}
ALONE: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "a training": ("StepDPOJob", JOB, ["it-a1"]),
    "a fine-tuning": ("SFTJob", {"model": MODEL, "ift": "s3://bucket/ift.jsonl", "storage": STORAGE}, ["it-a1"]),
    "a generation in shards": ("PreferenceGeneration", {**GENERATION, "shards": 3}, ["it-merge-a1", "it-search-a1"]),
    "an evaluation": (
        "ModelEvaluation",
        {"model": MODEL, "problems": "s3://bucket/p.jsonl", "storage": STORAGE, "server": {"inline": {}}},
        ["it-a1"],
    ),
    "a round": (
        "SelfRewardIteration",
        {**GENERATION, "trainingResources": {"gpus": 1}, "server": {"inline": {"resources": {"gpus": 8}}}},
        ["it-dpo-a1", "it-pairs-merge-a1", "it-pairs-search-a1"],
    ),
}


@pytest.mark.parametrize("case", ALONE)
def test_every_kind_works_alone(case: str, scene: Scene) -> None:
    kind, spec, jobs = ALONE[case]
    scene.make(kind, **spec)
    item = scene.until(kind, "Succeeded")
    assert scene.names("Job") == jobs
    assert item["status"].get("output", "s3://").startswith("s3://")
    if "server" in spec:
        wait(lambda: not [pod for pod in pods(scene) if "psr.dev/server" in pod["metadata"]["labels"]])


def test_a_suspended_job_lets_its_pod_go_and_a_resumed_one_counts_nothing(scene: Scene) -> None:
    scene.play(lambda pod: Outcome(hold=True))
    scene.make("StepDPOJob", **JOB, retries={"backoffLimit": 0, "maxDisruptions": 0})
    scene.until("StepDPOJob", "Training")
    scene.change("StepDPOJob", suspend=True)
    scene.until("StepDPOJob", "Suspended")
    wait(lambda: scene.names("Job") == [] and pods(scene) == [])
    scene.play(succeed)
    scene.change("StepDPOJob", suspend=False)
    item = scene.until("StepDPOJob", "Succeeded")
    attempts = item["status"]["attempts"]["train"]
    assert (attempts["attempt"], attempts["failures"], attempts["disruptions"]) == (2, 0, 0)
    assert scene.names("Job") == ["it-a2"]


def test_a_failure_is_repeated_by_a_new_job_and_the_limit_is_kept(scene: Scene) -> None:
    scene.play(lambda pod: Outcome(code=1, message=json.dumps({"error": "a rank died"})))
    scene.make("StepDPOJob", **JOB, retries={**QUICK, "backoffLimit": 1})
    item = scene.until("StepDPOJob", "BackoffLimitExceeded")
    assert scene.names("Job") == ["it-a1", "it-a2"]
    assert "a rank died" in message(item)
    scene.play(succeed)
    scene.change("StepDPOJob", retries={"backoffLimit": 5})
    scene.until("StepDPOJob", "Succeeded")
    assert scene.names("Job") == ["it-a1", "it-a2", "it-a3"]


def test_an_eviction_and_a_lack_of_memory_are_told_apart(scene: Scene) -> None:
    ends = [Outcome(disruption=True), Outcome(code=137, reason="OOMKilled"), Outcome()]
    scene.play(lambda pod: ends[pod.attempt - 1])
    scene.make("StepDPOJob", **JOB, retries=QUICK)
    item = scene.until("StepDPOJob", "Succeeded")
    attempts = item["status"]["attempts"]["train"]
    assert (attempts["attempt"], attempts["failures"], attempts["disruptions"]) == (3, 1, 1)
    messages = " ".join(item["message"] for item in scene.plane.request("GET", scene.path("Event"))["items"])
    assert "OOMKilled" in messages


def test_wrong_data_is_never_tried_again(scene: Scene) -> None:
    scene.play(lambda pod: Outcome(code=65, message=json.dumps({"error": "pairs.jsonl, line 3: no chosen_ids"})))
    scene.make("StepDPOJob", **JOB)
    item = scene.until("StepDPOJob", "DataError")
    assert "line 3" in message(item)
    assert scene.names("Job") == ["it-a1"]


def test_a_shard_that_fails_is_tried_again_in_its_job(scene: Scene) -> None:
    seen: set[str] = set()

    def first_time_fails(pod: Pod) -> Outcome:
        if pod.stage != "search" or pod.index != 1 or pod.index in seen:
            return succeed(pod)
        seen.add(pod.index)  # type: ignore[arg-type]
        return Outcome(code=1)

    scene.play(first_time_fails)
    scene.make("PreferenceGeneration", **GENERATION, shards=2)
    item = scene.until("PreferenceGeneration", "Succeeded")
    assert seen == {1}
    assert item["status"]["attempts"]["search"]["attempt"] == 1


def test_progress_of_pods_reaches_the_status(scene: Scene) -> None:
    scene.play(lambda pod: Outcome(hold=True) if pod.stage == "step-dpo" else succeed(pod))
    scene.make("StepDPOJob", **JOB)
    scene.until("StepDPOJob", "Training")
    scene.player.progress("it-a1", done=40, total=100, unit="updates", eta=90.0)
    wait(lambda: (scene.get("StepDPOJob") or {})["status"].get("progress") == "40%, 90 s left")
    scene.player.release("it-a1")
    assert scene.until("StepDPOJob", "Succeeded")["status"]["progress"] == "100%"


def test_the_scheduler_s_reason_is_shown_and_waiting_has_an_end(scene: Scene) -> None:
    scene.make("StepDPOJob", **JOB, resources={"memory": "5000Ti"}, schedulingDeadlineSeconds=3)
    pending = scene.until("StepDPOJob", "Pending")
    wait(lambda: "Insufficient memory" in message(scene.get("StepDPOJob") or pending))
    item = scene.until("StepDPOJob", "SchedulingDeadlineExceeded")
    assert "Insufficient memory" in message(item)
    wait(lambda: scene.names("Job") == [])


def test_running_too_long_ends_the_work(scene: Scene) -> None:
    scene.play(lambda pod: Outcome(hold=True))
    scene.make("StepDPOJob", **JOB, activeDeadlineSeconds=2)
    scene.until("StepDPOJob", "DeadlineExceeded")
    wait(lambda: scene.names("Job") == [])


def test_what_the_apiserver_refuses_is_said_and_a_correction_goes_on(scene: Scene) -> None:
    scene.make("StepDPOJob", **JOB, pod={"affinity": {"nodeAffinity": {"required": "gpu"}}})
    item = scene.until("StepDPOJob", "JobRejected")
    assert "affinity" in message(item)
    scene.change("StepDPOJob", pod=None)
    scene.until("StepDPOJob", "Succeeded")


def test_a_service_account_that_is_not_allowed_is_refused(scene: Scene) -> None:
    scene.make("StepDPOJob", **JOB, pod={"serviceAccountName": "somebody"})
    assert "somebody" in message(scene.until("StepDPOJob", "ServiceAccountNotAllowed"))
    assert scene.names("Job") == []


def test_a_result_that_cannot_be_read_is_asked_for_again(scene: Scene) -> None:
    scene.play(lambda pod: Outcome(message="") if pod.attempt == 1 else succeed(pod))
    scene.make("StepDPOJob", **JOB, retries={**QUICK, "backoffLimit": 0})
    item = scene.until("StepDPOJob", "Succeeded")
    assert item["status"]["attempts"]["train"]["failures"] == 0
    assert scene.names("Job") == ["it-a1", "it-a2"]


def test_finished_jobs_may_vanish(scene: Scene) -> None:
    scene.make("StepDPOJob", **JOB, ttlSecondsAfterFinished=60)
    scene.until("StepDPOJob", "Succeeded")
    job = scene.get("Job", "it-a1")
    assert job is not None
    assert job["spec"]["ttlSecondsAfterFinished"] == 60
    scene.plane.request("DELETE", scene.path("Job", "it-a1"))  # what the controller of TTLs does a minute later
    wait(lambda: scene.names("Job") == [])
    scene.change("StepDPOJob", retries={"backoffLimit": 7})  # have it looked at
    item = scene.until("StepDPOJob", "Succeeded")
    assert item["status"]["attempts"]["train"]["attempt"] == 1
    assert scene.names("Job") == []


def test_queues_find_their_label_on_the_job(scene: Scene) -> None:
    scene.make("StepDPOJob", meta={"labels": {"kueue.x-k8s.io/queue-name": "gpus"}}, **JOB)
    scene.until("StepDPOJob", "Succeeded")
    job = scene.get("Job", "it-a1")
    assert job is not None
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"


def test_a_rerun_makes_another_attempt_in_a_folder_of_its_own(scene: Scene) -> None:
    scene.make("StepDPOJob", **JOB)
    first = scene.until("StepDPOJob", "Succeeded")["status"]["output"]
    scene.change("StepDPOJob", rerun="again")
    second = scene.until("StepDPOJob", "Succeeded")["status"]["output"]
    assert second == f"{first}/rerun-again"
    assert scene.names("Job") == ["it-a1", "it-a2"]


def test_a_run_goes_on_when_an_iteration_is_appended(scene: Scene) -> None:
    scene.make(
        "SelfRewardRun",
        model=MODEL,
        problems="s3://bucket/problems.jsonl",
        iterations=[{"questions": 4}],
        storage=STORAGE,
    )
    scene.until("SelfRewardRun", "Succeeded", seconds=120)
    scene.change("SelfRewardRun", iterations=[{"questions": 4}, {"questions": 8}])
    item = scene.until("SelfRewardRun", "Succeeded", seconds=120)
    assert [model["name"] for model in item["status"]["models"]] == ["M1", "M2", "M3"]
    with pytest.raises(APIError, match="iterations"):
        scene.change("SelfRewardRun", iterations=[{"questions": 5}, {"questions": 8}])


def test_a_server_exchanges_its_model_in_place(scene: Scene) -> None:
    scene.make("PolicyServer", model=MODEL, storage=STORAGE)
    before = scene.until("PolicyServer", "Serving")
    uids = [pod["metadata"]["uid"] for pod in pods(scene)]
    scene.change("PolicyServer", model={"uri": "s3://bucket/models/next"}, modelDigest="sha256:next")
    wait(lambda: (scene.get("PolicyServer") or before)["status"].get("digest") == "sha256:next")
    item = scene.until("PolicyServer", "Serving")
    assert item["status"]["model"] == "s3://bucket/models/next"
    assert item["status"]["endpoints"] == [f"http://it.{scene.namespace}.svc:8000"]
    assert [pod["metadata"]["uid"] for pod in pods(scene)] == uids
    config = scene.get("ConfigMap", "it-serve")
    assert config is not None
    assert "s3://bucket/models/next" in config["data"]["serve.json"]


def test_a_server_that_cannot_load_its_model_says_so(scene: Scene) -> None:
    scene.player.broken["s3://bucket/models/broken"] = "the weights are not those of the fingerprint"
    scene.make("PolicyServer", model={"uri": "s3://bucket/models/broken"}, storage=STORAGE)
    assert "fingerprint" in message(scene.until("PolicyServer", "ServerFailed"))
    scene.change("PolicyServer", active=False)
    scene.until("PolicyServer", "Idle")
    assert pods(scene) == []


def test_deleting_an_object_removes_all_that_it_made(scene: Scene) -> None:
    scene.play(lambda pod: Outcome(hold=True))
    scene.make("SelfRewardIteration", **GENERATION)
    wait(lambda: scene.names("Job") == ["it-pairs-search-a1"] if scene.names("Job") else False)
    scene.plane.request("DELETE", scene.path("SelfRewardIteration", "it"))
    wait(lambda: not any(scene.names(kind) for kind in ("PreferenceGeneration", "PolicyServer", "Job", "Deployment")))
    wait(lambda: pods(scene) == [])


def test_a_server_s_other_hardware_takes_new_pods(scene: Scene) -> None:
    scene.make("PolicyServer", model=MODEL, storage=STORAGE)
    scene.until("PolicyServer", "Serving")
    before = [pod["metadata"]["uid"] for pod in pods(scene)]
    scene.change("PolicyServer", resources={"memory": "8Gi"})
    wait(lambda: (uids := [pod["metadata"]["uid"] for pod in pods(scene)]) != [] and uids != before)
    scene.until("PolicyServer", "Serving")
    (only,) = pods(scene)
    assert only["spec"]["containers"][0]["resources"]["limits"]["memory"] == "8Gi"


def test_a_child_follows_what_its_parent_hands_on(scene: Scene) -> None:
    """And what a parent does not say any more is gone from the child."""
    scene.play(lambda pod: Outcome(hold=True) if pod.stage else succeed(pod))
    scene.make("SelfRewardIteration", **GENERATION, activeDeadlineSeconds=1000)
    scene.until("PreferenceGeneration", "Searching", "it-pairs")
    scene.change("SelfRewardIteration", activeDeadlineSeconds=None, retries={"backoffLimit": 9})

    def handed_on() -> bool:
        spec = (scene.get("PreferenceGeneration", "it-pairs") or {})["spec"]
        return spec["retries"]["backoffLimit"] == 9 and "activeDeadlineSeconds" not in spec

    wait(handed_on)


def test_psr_wait_sees_success_and_failure(scene: Scene, tmp_path: Path) -> None:
    scene.play(lambda pod: Outcome(code=65) if pod.workload.startswith("bad") else succeed(pod))
    scene.make("StepDPOJob", "good", **JOB)
    scene.make("StepDPOJob", "bad", **JOB)
    kubeconfig = scene.plane.kubeconfig_for(scene.plane.token, tmp_path / "kubeconfig")

    def wait_for(name: str, seconds: int = 60) -> tuple[int, str]:
        command = ["psr_operator.cli", "wait", f"StepDPOJob/{name}", "--namespace", scene.namespace]
        more = ["--kubeconfig", str(kubeconfig), "--timeout", str(seconds)]
        done = subprocess.run([sys.executable, "-m", *command, *more], capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    code, said = wait_for("good")
    assert (code, "Succeeded" in said) == (0, True), said
    code, said = wait_for("bad")
    assert (code, "DataError" in said) == (1, True), said
    code, said = wait_for("nobody", 1)
    assert (code, "is not there yet" in said) == (2, True), said
