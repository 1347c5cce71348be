"""Another operator comes: what runs goes on with what it was started with, what starts later gets the new images."""

from __future__ import annotations

from pathlib import Path

from harness.control_plane.plane import ControlPlane
from harness.control_plane.player import play
from harness.operator_process import grant, start_operator
from tests.controller.one_namespace import JOB, MODEL, STORAGE, Scene, pods, servers, wait


def test_an_upgraded_operator_restarts_no_server(crds: ControlPlane, namespace: str, tmp_path: Path) -> None:
    account = grant(crds, [namespace])
    with play(crds, namespaces=[namespace]) as player:
        scene = Scene(crds, player, namespace, {})
        with start_operator(account, tmp_path, namespaces=[namespace], images=("runtime:1", "inference:1")):
            scene.make("PolicyServer", model=MODEL, storage=STORAGE)
            before = scene.until("PolicyServer", "Serving")
        uids = [pod["metadata"]["uid"] for pod in pods(scene)]
        with start_operator(account, tmp_path, namespaces=[namespace], images=("runtime:2", "inference:2")):
            scene.make("StepDPOJob", "training", **JOB)
            scene.until("StepDPOJob", "Succeeded", "training")
            assert [pod["metadata"]["uid"] for pod in servers(scene)] == uids
            scene.change("PolicyServer", model={"uri": "s3://bucket/models/next"}, modelDigest="sha256:next")
            wait(lambda: (scene.get("PolicyServer") or before)["status"].get("digest") == "sha256:next")
            assert [pod["metadata"]["uid"] for pod in servers(scene)] == uids
            assert scene.until("PolicyServer", "Serving")["status"]["image"] == "inference:1"
            job = scene.get("Job", "training-a1")
            assert job is not None
            assert job["spec"]["template"]["spec"]["containers"][0]["image"] == "runtime:2"
            scene.change("PolicyServer", active=False)
            scene.until("PolicyServer", "Idle")
            scene.change("PolicyServer", active=True)
            assert scene.until("PolicyServer", "Serving")["status"]["image"] == "inference:2"
