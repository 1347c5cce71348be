"""Two teams on one cluster: the second reaches neither the first one's server, nor its secrets, nor its storage.

Everything is tried from a pod in the second team's namespace, with the rights that its people have there.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harness.control_plane.paths import collection_of
from harness.control_plane.plane import ControlPlane
from tests.cluster.one_run import start
from tests.cluster.pods import output_of, run_python
from tests.cluster.store import BUCKET, Store, upload_folder
from tests.serving.checkpoints import checkpoint, random_model

SERVER = "policy"
ASK = """
import json, sys, urllib.error, urllib.request
statuses = {}
for url, headers in json.loads(sys.argv[1]):
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=20) as answer:
            statuses[url + json.dumps(headers)] = answer.status
    except urllib.error.HTTPError as error:
        statuses[url + json.dumps(headers)] = error.code
print(json.dumps(statuses))
"""


@dataclass(frozen=True)
class Teams:
    """The first team has a server of its own; the second one is curious."""

    cluster: ControlPlane
    store: Store
    first: str
    second: str
    key: str

    @property
    def root(self) -> str:
        return f"http://{SERVER}.{self.first}.svc"


@pytest.fixture(scope="module")
def teams(
    installed: ControlPlane, store: Store, team: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> Teams:
    first, second = team("team-first"), team("team-second")
    folder = tmp_path_factory.mktemp("model")
    checkpoint(folder, random_model(seed=1), None)
    upload_folder(store.storage(), folder, f"s3://{BUCKET}/models/tiny")
    spec = {
        "model": {"uri": f"s3://{BUCKET}/models/tiny"},
        "storage": store.manifest(),
        "engine": {"dtype": "float32", "maxModelLen": 128, "enforceEager": True},
    }
    server = start(installed, first, _object("PolicyServer", SERVER, spec))
    server.until_ready()
    secret = installed.request("GET", f"{collection_of('Secret', first)}/{SERVER}-key")
    return Teams(installed, store, first, second, base64.b64decode(secret["data"]["key"]).decode())


def test_the_server_answers_nobody_without_its_key(teams: Teams) -> None:
    """401 for every route but the probes', with no key and with a wrong one; the first team's key opens them."""
    wrong, right = ({"Authorization": f"Bearer {key}"} for key in ("a-guess", teams.key))
    guarded = [f"{teams.root}:8000{path}" for path in ("/v1/models", "/metrics", "/psr/gate")]
    guarded += [f"{teams.root}:8001/psr/state", f"{teams.root}:8001/psr/ready?digest=x"]
    questions: list[tuple[str, dict[str, str]]] = [(url, headers) for url in guarded for headers in ({}, wrong)]
    codes = _ask(teams, "asks", [*questions, (f"{teams.root}:8000/metrics", right)])
    assert {codes[url + json.dumps(headers)] for url, headers in questions} == {401}
    assert codes[f"{teams.root}:8000/metrics{json.dumps(right)}"] == 200


def test_nothing_of_its_secrets_can_be_read(teams: Teams) -> None:
    """The pods of a team hold no token at all; its people may edit in their own namespace only."""
    account = f"system:serviceaccount:{teams.second}:default"
    for verb, what in (("get", "secrets"), ("list", "pods"), ("create", "pods/exec"), ("get", "policyservers.psr.dev")):
        said = teams.cluster.ctl("auth", "can-i", verb, what, "-n", teams.first, f"--as={account}", check=False)
        assert said.strip() == "no", f"{verb} {what}"
    looked = "import os; print(os.path.exists('/var/run/secrets/kubernetes.io/serviceaccount/token'))"
    assert _run_python(teams, "looks", looked).strip() == "False"
    pods = teams.cluster.request("GET", collection_of("Pod", teams.first))["items"]
    shown = json.dumps([pods, teams.cluster.request("GET", collection_of("Event", teams.first))["items"]])
    shown += teams.cluster.ctl("get", "psr", "-n", teams.first, "-o", "yaml")
    assert teams.key not in shown
    assert teams.store.secret_key not in shown


def test_its_storage_prefix_cannot_be_written(teams: Teams, tmp_path: Path) -> None:
    """The same bucket and the same credentials, and an output below the first team's claim: refused by owner.json."""
    storage = teams.store.storage()
    theirs = f"s3://{BUCKET}/runs/{teams.first}/claimed"
    storage.write(f"{theirs}/owner.json", json.dumps({"uid": "uid-first", "name": f"{teams.first}/claimed"}).encode())
    storage.write(f"s3://{BUCKET}/models/test.jsonl", b'{"id": "p1", "problem": "1 2 3", "answer": "6"}\n')
    spec = {
        "model": {"uri": f"s3://{BUCKET}/models/tiny"},
        "problems": f"s3://{BUCKET}/models/test.jsonl",
        "storage": teams.store.manifest(),
        "output": f"{theirs}/m2",
        "server": {"inline": {"engine": {"dtype": "float32", "maxModelLen": 128, "enforceEager": True}}},
    }
    run = start(teams.cluster, teams.second, _object("ModelEvaluation", "intruder", spec))
    stalled = _until_stalled(run)
    assert stalled["reason"] == "StorageInUse"
    assert f"{teams.first}/claimed (uid uid-first)" in stalled["message"]
    assert [item.uri for item in storage.list(theirs)] == [f"{theirs}/owner.json"]


def _until_stalled(run: Any) -> dict[str, Any]:
    import time

    deadline = time.monotonic() + 600
    while True:
        stalled: dict[str, Any] | None = run.condition("Stalled")
        if stalled is not None and stalled["status"] == "True":
            return stalled
        assert time.monotonic() < deadline, run.read().get("status")
        time.sleep(0.5)


def _object(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "psr.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}


def _ask(teams: Teams, name: str, questions: list[tuple[str, dict[str, str]]]) -> dict[str, int]:
    """HTTP codes of GET requests from a pod of the second team."""
    codes: dict[str, int] = json.loads(_run_python(teams, name, ASK, json.dumps(questions)))
    return codes


def _run_python(teams: Teams, name: str, program: str, *arguments: str) -> str:
    """What a program prints in a pod of the second team."""
    run_python(teams.cluster, teams.second, name, program, *arguments)
    return output_of(teams.cluster, teams.second, name)
