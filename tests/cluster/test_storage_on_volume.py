"""A cluster without S3: `file://` on a claim that all pods mount. One evaluation from the model to the predictions."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.control_plane.paths import collection_of
from harness.control_plane.plane import ControlPlane
from harness.node.processes import STATE
from psr_operator.render.pod import USER
from tests.cluster.one_run import start
from tests.serving.checkpoints import checkpoint, random_model

CLAIM = "models"
MOUNT = "/data"


@pytest.fixture
def shared(cluster: ControlPlane, team: Callable[[str], str]) -> Iterator[tuple[str, Path]]:
    """A namespace with a ReadWriteMany claim, and the folder of the node that stands behind it."""
    if os.environ.get("PSR_TEST_KUBECONFIG"):
        pytest.skip("the volume is a folder of the node of `make cluster-up`; a named cluster has none that we know")
    namespace = team("team-volume")
    folder = STATE / "shared"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    os.chown(folder, USER, USER)
    common = {"accessModes": ["ReadWriteMany"], "storageClassName": ""}
    cluster.request(
        "POST",
        "/api/v1/persistentvolumes",
        {
            "metadata": {"name": "psr-shared"},
            "spec": {**common, "capacity": {"storage": "1Gi"}, "hostPath": {"path": str(folder)}},
        },
    )
    cluster.request(
        "POST",
        f"/api/v1/namespaces/{namespace}/persistentvolumeclaims",
        {
            "metadata": {"name": CLAIM},
            "spec": {**common, "volumeName": "psr-shared", "resources": {"requests": {"storage": "1Gi"}}},
        },
    )
    yield namespace, folder
    cluster.ctl("delete", "psr", "--all", "-n", namespace, "--timeout=120s")
    cluster.ctl("delete", "pvc", CLAIM, "-n", namespace, "--timeout=120s")
    cluster.ctl("delete", "pv", "psr-shared", "--timeout=60s")
    shutil.rmtree(folder)


def test_an_evaluation_reads_and_writes_on_the_claim(
    installed: ControlPlane, shared: tuple[str, Path], tmp_path: Path
) -> None:
    namespace, folder = shared
    checkpoint(tmp_path / "tiny", random_model(seed=1), None)
    shutil.copytree(tmp_path / "tiny", folder / "tiny")
    problems = [{"id": f"p{number}", "problem": "1 2 3", "answer": "6"} for number in range(4)]
    (folder / "test.jsonl").write_text("".join(json.dumps(item) + "\n" for item in problems))
    spec = {
        "model": {"uri": f"file://{MOUNT}/tiny"},
        "problems": f"file://{MOUNT}/test.jsonl",
        "storage": {"uri": f"file://{MOUNT}/runs", "volume": {"claimName": CLAIM, "mountPath": MOUNT}},
        "evaluation": {"maxTokens": 8},
        "server": {"inline": {"engine": {"dtype": "float32", "maxModelLen": 128, "enforceEager": True}}},
    }
    manifest = {"apiVersion": "psr.dev/v1alpha1", "kind": "ModelEvaluation", "metadata": {"name": "e"}, "spec": spec}
    status = start(installed, namespace, manifest).until_ready()["status"]
    output = folder / status["output"].removeprefix(f"file://{MOUNT}/")
    assert json.loads((output / "manifest.json").read_text())["stage"] == "evaluate"
    assert len((output / "predictions.jsonl").read_text().splitlines()) == len(problems)
    assert (output / "manifest.json").stat().st_uid == USER
    pods = installed.request("GET", collection_of("Pod", namespace))["items"]
    claims = [
        volume["persistentVolumeClaim"]["claimName"]
        for pod in pods
        for volume in pod["spec"]["volumes"]
        if "persistentVolumeClaim" in volume
    ]
    assert set(claims) == {CLAIM}
