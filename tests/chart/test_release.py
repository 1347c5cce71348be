"""A release on a real apiserver: all of it is taken, an upgrade changes the kinds, its end keeps them and objects.
The operator runs as the chart says, with the rights that the chart gives.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from harness.control_plane.plane import APIError, ControlPlane
from psr_operator.api import GROUP, KINDS, VERSION
from psr_operator.api.crd import rendered
from tests.chart.generated import CHART
from tests.chart.helm import NAMESPACE, RELEASE, Helm, one, parsed
from tests.chart.test_chart_golden import VALUES

DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
SERVERS = f"policyservers.{GROUP}"
TEAM = "team"
OLD_LABEL = "example.com/older"
NOT_HERE = {"ServiceMonitor", "PodMonitor", "PrometheusRule"}
"""Kinds of the Prometheus operator, which this apiserver does not have."""


@pytest.fixture
def clean(cluster: ControlPlane, installer: Helm) -> Iterator[Helm]:
    """helm for the cluster, on which no release and no kind is left afterwards."""
    for name in (NAMESPACE, TEAM):
        make_namespace(cluster, name)
    yield installer
    for release in json.loads(installer.run("list", "--all-namespaces", "--output=json")):
        installer.run("uninstall", release["name"], f"--namespace={release['namespace']}")
    cluster.ctl("delete", "customresourcedefinitions", "--all", "--timeout=60s")


def make_namespace(cluster: ControlPlane, name: str) -> None:
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    try:
        cluster.request("POST", "/api/v1/namespaces", {"metadata": {"name": name, "labels": labels}})
    except APIError as error:
        if error.code != 409:
            raise


def install(helm: Helm, chart: Path = CHART, *more: str, verb: str = "install") -> str:
    return helm.run(
        verb, RELEASE, str(chart), f"--namespace={NAMESPACE}", "--set", f"watchNamespaces={{{TEAM}}}", *more
    )


def uninstall(helm: Helm) -> None:
    helm.run("uninstall", RELEASE, f"--namespace={NAMESPACE}")


def make_object(cluster: ControlPlane) -> dict[str, Any]:
    """A PolicyServer; its kind was installed a moment ago, so the apiserver may not serve it yet."""
    cluster.ctl("wait", "--for=condition=Established", f"crd/{SERVERS}", "--timeout=60s")
    body = {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "PolicyServer",
        "metadata": {"name": "kept"},
        "spec": {"model": {"uri": "s3://models/m1"}},
    }
    deadline = time.monotonic() + 60
    while True:
        try:
            stored: dict[str, Any] = cluster.request("POST", objects_path(), body)
            return stored
        except APIError as error:
            if error.code != 404 or time.monotonic() > deadline:
                raise
        time.sleep(0.1)


def objects_path() -> str:
    return f"/apis/{GROUP}/{VERSION}/namespaces/{TEAM}/policyservers"


def kinds_of(cluster: ControlPlane) -> set[str]:
    return {item["metadata"]["name"] for item in cluster.request("GET", DEFINITIONS)["items"]}


def exists(cluster: ControlPlane, path: str) -> bool:
    try:
        cluster.request("GET", path)
    except APIError as error:
        if error.code != 404:
            raise
        return False
    return True


def deployment() -> str:
    return f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/psr-operator"


def older(folder: Path) -> Path:
    """The chart as an older version might have been: a field of PolicyServer is missing, a label is there."""
    chart = folder / "psr"
    shutil.copytree(CHART, chart)
    place = chart / "charts" / "psr-crds" / "files" / f"{GROUP}_policyservers.yaml"
    yaml = YAML(typ="safe", pure=True)
    definition = yaml.load(place.read_text())
    definition["metadata"]["labels"] = {OLD_LABEL: "older"}
    del spec_of(definition)["idle"]
    with place.open("w") as file:
        file.write("# An older one.\napiVersion: apiextensions.k8s.io/v1\n")
        del definition["apiVersion"]
        yaml.default_flow_style = False
        yaml.dump(definition, file)
    return chart


def spec_of(definition: dict[str, Any]) -> dict[str, Any]:
    schema: dict[str, Any] = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    return schema["properties"]  # type: ignore[no-any-return]


def test_install_says_what_to_do_next_and_makes_the_kinds(clean: Helm, cluster: ControlPlane) -> None:
    said = install(clean)
    assert f"kubectl -n {TEAM} apply -f run.yaml" in said
    assert kinds_of(cluster) == {f"{kind.plural}.{GROUP}" for kind in KINDS.values()}
    assert exists(cluster, deployment())


def test_an_upgrade_changes_the_kinds_and_keeps_objects(clean: Helm, cluster: ControlPlane, tmp_path: Path) -> None:
    install(clean, older(tmp_path))
    kept = make_object(cluster)
    before = cluster.request("GET", f"{DEFINITIONS}/{SERVERS}")
    assert "idle" not in spec_of(before)
    assert before["metadata"]["labels"][OLD_LABEL] == "older"

    install(clean, verb="upgrade")
    after = cluster.request("GET", f"{DEFINITIONS}/{SERVERS}")
    assert "idle" in spec_of(after)
    assert OLD_LABEL not in after["metadata"].get("labels", {})
    assert after["metadata"]["uid"] == before["metadata"]["uid"], "changed, not made anew"
    assert cluster.request("GET", f"{objects_path()}/kept")["metadata"]["uid"] == kept["metadata"]["uid"]


def test_uninstall_keeps_kinds_and_objects_and_another_install_takes_them_up(
    clean: Helm, cluster: ControlPlane
) -> None:
    install(clean)
    kept = make_object(cluster)
    uninstall(clean)
    assert not exists(cluster, deployment())
    assert not exists(cluster, f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/psr-operator")
    assert cluster.request("GET", f"{objects_path()}/kept")["metadata"]["uid"] == kept["metadata"]["uid"]
    install(clean)
    assert exists(cluster, deployment())
    assert cluster.request("GET", f"{objects_path()}/kept")["metadata"]["uid"] == kept["metadata"]["uid"]


def test_a_release_that_leaves_the_kinds_to_others_keeps_them(clean: Helm, cluster: ControlPlane) -> None:
    install(clean)
    kept = make_object(cluster)
    install(clean, CHART, "--set", "crds.install=false", verb="upgrade")
    assert cluster.request("GET", f"{objects_path()}/kept")["metadata"]["uid"] == kept["metadata"]["uid"]


def test_without_keep_the_kinds_go_with_the_release(clean: Helm, cluster: ControlPlane) -> None:
    install(clean, CHART, "--set", "crds.keep=false")
    make_object(cluster)
    uninstall(clean)
    deadline = time.monotonic() + 60
    while kinds_of(cluster):
        assert time.monotonic() < deadline, kinds_of(cluster)
        time.sleep(0.1)


def test_kinds_that_were_applied_by_hand_are_taken_over_on_request_only(clean: Helm, cluster: ControlPlane) -> None:
    cluster.ctl("apply", "--server-side", "-f", "-", stdin="---\n".join(rendered().values()))
    kept = make_object(cluster)
    said = clean.refusal("install", RELEASE, str(CHART), f"--namespace={NAMESPACE}")
    assert "exists and cannot be imported into the current release" in said
    install(clean, CHART, "--take-ownership", "--force-conflicts")
    assert cluster.request("GET", f"{objects_path()}/kept")["metadata"]["uid"] == kept["metadata"]["uid"]


# --- everything that is rendered


@pytest.mark.parametrize("name", VALUES)
def test_an_apiserver_takes_everything_that_is_rendered(clean: Helm, cluster: ControlPlane, name: str) -> None:
    objects = [item for item in clean.objects(VALUES[name]) if item["kind"] not in NOT_HERE]
    for place in {item["metadata"].get("namespace") for item in objects} - {None}:
        make_namespace(cluster, place)
    said = cluster.ctl(
        "apply",
        "--server-side",
        "--dry-run=server",
        "--validate=strict",
        "-f",
        "-",
        stdin="\n---\n".join(json.dumps(item) for item in objects),
    )
    assert len(said.splitlines()) == len(objects)


@pytest.mark.parametrize("name", VALUES)
def test_the_operators_pod_is_let_into_a_namespace_of_the_restricted_level(
    clean: Helm, cluster: ControlPlane, name: str
) -> None:
    template = one(clean.objects(VALUES[name]), "Deployment")["spec"]["template"]
    account = f"account-{uuid.uuid4().hex[:6]}"  # the release's own is made with the release
    cluster.request("POST", f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts", {"metadata": {"name": account}})
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {**template["metadata"], "name": account},
        "spec": {**template["spec"], "serviceAccountName": account},
    }
    admitted = cluster.request("POST", f"/api/v1/namespaces/{NAMESPACE}/pods?dryRun=All&fieldValidation=Strict", pod)
    mounts = [item["mountPath"] for item in admitted["spec"]["containers"][0]["volumeMounts"]]
    assert "/var/run/secrets/kubernetes.io/serviceaccount" in mounts, "its token"


# --- the operator as the chart runs it


@contextlib.contextmanager
def operator_process(cluster: ControlPlane, container: dict[str, Any], folder: Path) -> Iterator[Callable[[str], str]]:
    """The container's command as a process here, with the token of the release's account.

    Yields:
        What a path of its port answers.
    """
    accounts = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts"
    asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}}
    token = cluster.request("POST", f"{accounts}/psr-operator/token", asked)["status"]["token"]
    kubeconfig = cluster.kubeconfig_for(token, folder / "operator.kubeconfig")
    _psr, *arguments = [*container["command"], *container["args"]]
    here = [f"--kubeconfig={kubeconfig}", f"--namespace={NAMESPACE}", "--port=0"]  # the last one of a flag counts
    log = folder / "operator.log"
    with log.open("wb") as output:
        command = [sys.executable, "-m", "psr_operator.cli", *arguments, *here]
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        port: list[str] = []

        def listens() -> bool:
            assert process.poll() is None, log.read_text()
            port[:] = re.findall(r"health and metrics on port (\d+)", log.read_text())
            return bool(port)

        until(listens, "it listens")
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        yield lambda path: opener.open(f"http://127.0.0.1:{port[0]}{path}", timeout=5).read().decode()
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def until(done: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline, f"not within a minute: {what}"
        time.sleep(0.1)


def test_the_operator_is_alive_and_ready_while_it_waits_and_works_with_the_rights_of_the_release(
    clean: Helm, cluster: ControlPlane, tmp_path: Path
) -> None:
    install(clean, CHART, "--set", "crds.install=false")
    text = clean.run("get", "manifest", RELEASE, f"--namespace={NAMESPACE}")
    container = one(parsed(text), "Deployment")["spec"]["template"]["spec"]["containers"][0]
    with operator_process(cluster, container, tmp_path) as answer:
        for probe in ("livenessProbe", "readinessProbe"):
            assert answer(container[probe]["httpGet"]["path"]) == "ok\n"
        assert "psr_leader 0.0" in answer("/metrics")

        install(clean, verb="upgrade")  # the kinds it waits for
        make_object(cluster)
        until(lambda: "psr_leader 1.0" in answer("/metrics"), "it leads")
        deployments = f"/apis/apps/v1/namespaces/{TEAM}/deployments"
        until(lambda: exists(cluster, f"{deployments}/kept"), "it makes what the object asks for")
        assert "conditions" in cluster.request("GET", f"{objects_path()}/kept")["status"]
