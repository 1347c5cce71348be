"""The player on a real control plane: the Job controller, the scheduler and the apiserver believe it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from harness.control_plane.client import Client
from harness.control_plane.plane import APIError, ControlPlane, start_control_plane
from harness.control_plane.player import Outcome, Player, play, succeed
from harness.control_plane.pod_ports import digest_of
from harness.control_plane.pod_status import expand

Object = dict[str, Any]
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}


def job(stage: str = "search", completions: int = 2, **spec: Any) -> Object:
    """An Indexed Job of a stage whose output depends on the shard."""
    config = {"output": "s3://bucket/price-$$5/$(PSR_SHARD)"}
    index = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    container = {
        "name": "stage",
        "image": "psr:test",
        "securityContext": RESTRICTED,
        "env": [
            {"name": "PSR_SHARD", "valueFrom": {"fieldRef": {"fieldPath": index}}},
            {"name": "PSR_STAGE_CONFIG", "value": json.dumps(config)},
        ],
    }
    labels = {"psr.dev/stage": stage, "psr.dev/workload": "work-a1", "psr.dev/attempt": "1"}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "work-a1"},
        "spec": {
            "completions": completions,
            "parallelism": completions,
            "completionMode": "Indexed",
            "backoffLimit": 0,
            **spec,
            "template": {
                "metadata": {"labels": labels},
                "spec": {"restartPolicy": "Never", "containers": [container]},
            },
        },
    }


POLICY = {
    "rules": [
        {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [64, 65, 66]}},
        {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
    ]
}


class Space:
    """A namespace with a player."""

    def __init__(self, plane: ControlPlane, namespace: str, player: Player) -> None:
        self.plane, self.player = plane, player
        self.jobs = f"/apis/batch/v1/namespaces/{namespace}/jobs"
        self.pods = f"/api/v1/namespaces/{namespace}/pods"
        self.core = f"/api/v1/namespaces/{namespace}"
        self.apps = f"/apis/apps/v1/namespaces/{namespace}"

    def condition(self, kind: str) -> Object | None:
        """A condition of the Job that is True."""
        conditions = self.plane.request("GET", f"{self.jobs}/work-a1").get("status", {}).get("conditions", [])
        return next((item for item in conditions if item["type"] == kind and item["status"] == "True"), None)

    def ended(self, kind: str) -> Object:
        """Wait for it."""
        condition: Object = self.player.until(lambda: self.condition(kind), kind)
        return condition

    def gone(self) -> bool:
        """Whether neither Jobs nor pods are left."""
        return not any(self.plane.request("GET", path)["items"] for path in (self.jobs, self.pods))


@pytest.fixture
def space(plane: ControlPlane, namespace: str) -> Any:
    with play(plane, namespaces=[namespace]) as player:
        account = f"/api/v1/namespaces/{namespace}/serviceaccounts/default"
        player.until(lambda: _there(plane, account), account)
        yield Space(plane, namespace, player)
        assert player.errors == []


def _there(plane: ControlPlane, path: str) -> bool:
    try:
        return bool(plane.request("GET", path))
    except APIError:
        return False


def test_an_indexed_job_completes_with_a_result_of_each_shard(space: Space) -> None:
    space.plane.request("POST", space.jobs, job())
    space.ended("Complete")
    pods = space.plane.request("GET", space.pods)["items"]
    ended = [pod["status"]["containerStatuses"][0]["state"]["terminated"] for pod in pods]
    outputs = sorted(json.loads(item["message"])["output"] for item in ended)
    assert outputs == ["s3://bucket/price-$5/0", "s3://bucket/price-$5/1"]
    assert {json.loads(item["message"])["digest"] for item in ended} == {digest_of(item) for item in outputs}
    assert {item["reason"] for item in ended} == {"Completed"}
    assert {pod["spec"]["nodeName"] for pod in pods} == {space.player.node}
    assert space.player.counts["finished"] == 2


@pytest.mark.parametrize(("outcome", "rule"), [(Outcome(code=65), 0), (Outcome(code=143, disruption=True), 1)])
def test_a_pod_failure_policy_matches_what_a_pod_ends_with(space: Space, outcome: Outcome, rule: int) -> None:
    space.player.script = lambda pod: outcome if pod.index == 1 else Outcome(hold=True)
    space.plane.request("POST", space.jobs, job(podFailurePolicy=POLICY))
    failed = space.ended("Failed")
    assert failed["reason"] == "PodFailurePolicy"
    assert f"rule at index {rule}" in failed["message"]


@pytest.mark.parametrize("policy", ["Foreground", "Background"])
def test_a_deleted_job_takes_its_pods_along(space: Space, policy: str) -> None:
    space.player.script = lambda pod: Outcome(hold=pod.index == 0)
    space.plane.request("POST", space.jobs, job())
    space.player.until(lambda: space.player.counts["finished"] == 1 and len(space.player.pods()) == 2)
    space.plane.request("DELETE", f"{space.jobs}/work-a1", {"propagationPolicy": policy})
    space.player.until(space.gone, "an empty namespace")
    space.player.until(lambda: not space.player.pods())


def test_a_pod_that_does_not_stop_is_terminating_until_it_is_released(space: Space) -> None:
    space.player.script = lambda pod: Outcome(hold=True, stop_seconds=None)
    space.plane.request("POST", space.jobs, job(completions=1))
    space.player.until(lambda: space.player.pods("work-a1"))
    space.plane.request("DELETE", f"{space.jobs}/work-a1", {"propagationPolicy": "Foreground"})

    def terminating() -> list[Object]:
        pods = space.plane.request("GET", space.pods)["items"]
        return [pod for pod in pods if "deletionTimestamp" in pod["metadata"]]

    space.player.until(terminating, "a pod that is terminating")
    assert not space.gone()
    assert space.player.release("work-a1") == 1
    space.player.until(space.gone, "an empty namespace")


def test_a_held_pod_tells_its_progress_and_ends_when_it_is_released(space: Space) -> None:
    space.player.script = lambda pod: Outcome(hold=True)
    space.plane.request("POST", space.jobs, job(completions=1))
    space.player.until(lambda: space.player.pods())
    pod = space.player.pods()[0]
    space.player.progress("work-a1", done=3, total=4, unit="problems", eta=5.0)

    def running() -> bool:
        stored = space.plane.request("GET", f"{space.pods}/{pod.name}")
        return stored["status"]["phase"] == "Running" and stored["status"]["podIP"] == pod.address

    space.player.until(running, "a running pod")
    with OPENER.open(f"http://{pod.address}:8090/progress", timeout=5) as answer:
        progress = json.loads(answer.read())
    assert progress == {"stage": "search", "done": 3, "total": 4, "unit": "problems", "eta": 5.0}
    space.player.release(pod.name, Outcome(code=137, reason="OOMKilled"))
    assert space.ended("Failed")["reason"] == "BackoffLimitExceeded"
    stored = space.plane.request("GET", f"{space.pods}/{pod.name}")["status"]["containerStatuses"][0]
    assert stored["state"]["terminated"]["reason"] == "OOMKilled"
    assert "message" not in stored["state"]["terminated"]


def test_a_server_is_ready_once_it_has_loaded_and_takes_orders(space: Space) -> None:
    space.player.load_seconds = 0.2
    _serve(space)
    address = _ready(space)
    first = digest_of("s3://bucket/m1")
    assert _state(address)["served"] == first
    body = {"model": {"uri": "s3://bucket/m2"}, "digest": "sha256:two"}
    request = urllib.request.Request(f"http://{address}:8001/psr/model", json.dumps(body).encode(), method="PUT")
    request.add_header("Authorization", "Bearer secret")
    with OPENER.open(request, timeout=5) as answer:
        assert answer.status == 202
    space.player.until(lambda: _state(address)["served"] == "sha256:two")
    assert [(order.uri, order.bearer) for order in space.player.orders] == [("s3://bucket/m2", "secret")]
    assert _ready(space) == address


def test_a_server_that_ends_is_started_again(space: Space) -> None:
    space.player.script = lambda pod: Outcome(hold=True) if pod.restarts else Outcome(code=66, message="no model")
    _serve(space)
    _ready(space)
    status = space.plane.request("GET", space.pods)["items"][0]["status"]["containerStatuses"][0]
    assert status["restartCount"] == 1
    assert status["lastState"]["terminated"]["message"] == "no model"


def _serve(space: Space) -> None:
    config = {"model": {"uri": "s3://bucket/m1"}, "scratch": "/scratch"}
    data = {"metadata": {"name": "serve"}, "data": {"serve.json": json.dumps(config)}}
    space.plane.request("POST", f"{space.core}/configmaps", data)
    labels = {"app": "server"}
    volumes = [{"name": "config", "configMap": {"name": "serve"}}]
    container = {"name": "server", "image": "psr:test", "securityContext": RESTRICTED}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container], "volumes": volumes}}
    spec = {"replicas": 1, "selector": {"matchLabels": labels}, "template": template}
    deployment = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "server"}, "spec": spec}
    space.plane.request("POST", f"{space.apps}/deployments", deployment)


def _ready(space: Space) -> str:
    def ready() -> bool:
        status = space.plane.request("GET", f"{space.apps}/deployments/server")["status"]
        return bool(status.get("readyReplicas") == 1)

    space.player.until(ready, "a ready Deployment")
    address: str = space.plane.request("GET", space.pods)["items"][0]["status"]["podIP"]
    return address


def _state(address: str) -> Object:
    with OPENER.open(f"http://{address}:8001/psr/state", timeout=5) as answer:
        state: Object = json.loads(answer.read())
    return state


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane without kube-controller-manager and scheduler."""
    folder = tmp_path_factory.mktemp("bare")
    with start_control_plane(folder, controllers=(), scheduler=False) as running:
        running.request("POST", "/api/v1/namespaces/default/serviceaccounts", {"metadata": {"name": "default"}})
        yield running


@pytest.fixture
def alone(bare: ControlPlane) -> Iterator[Space]:
    """The player is the Job and Deployment controllers too."""
    with play(bare, jobs=True) as player:
        space = Space(bare, "default", player)
        yield space
        for path in (f"{space.jobs}/work-a1", f"{space.apps}/deployments/server", f"{space.core}/configmaps/serve"):
            with contextlib.suppress(APIError):
                bare.request("DELETE", path, {"propagationPolicy": "Background"})
        player.until(space.gone, "an empty namespace")
        assert player.errors == []


def test_jobs_complete_without_a_job_controller(alone: Space) -> None:
    alone.plane.request("POST", alone.jobs, job(completions=3))
    assert alone.ended("Complete")["reason"] == "CompletionsReached"
    status = alone.plane.request("GET", f"{alone.jobs}/work-a1")["status"]
    assert (status["succeeded"], status["completedIndexes"], "active" in status) == (3, "0-2", False)
    assert alone.player.counts["finished"] == 3


@pytest.mark.parametrize(("outcome", "rule"), [(Outcome(code=65), 0), (Outcome(code=143, disruption=True), 1)])
def test_jobs_fail_by_their_policy_without_a_job_controller(alone: Space, outcome: Outcome, rule: int) -> None:
    alone.player.script = lambda pod: outcome if pod.index == 1 else Outcome(hold=True)
    alone.plane.request("POST", alone.jobs, job(podFailurePolicy=POLICY))
    failed = alone.ended("Failed")
    assert failed["reason"] == "PodFailurePolicy"
    assert f"rule at index {rule}" in failed["message"]
    alone.player.until(lambda: len(alone.plane.request("GET", alone.pods)["items"]) == 1, "the other pod's end")


def test_failed_pods_are_replaced_up_to_the_limit_without_a_job_controller(alone: Space) -> None:
    alone.player.script = lambda pod: Outcome(code=1)
    alone.plane.request("POST", alone.jobs, job(completions=1, backoffLimit=2))
    assert alone.ended("Failed")["reason"] == "BackoffLimitExceeded"
    assert alone.player.counts["failed"] == 3


@pytest.mark.parametrize("policy", ["Foreground", "Background"])
def test_a_deleted_job_takes_its_pods_along_without_a_garbage_collector(alone: Space, policy: str) -> None:
    alone.player.script = lambda pod: Outcome(hold=pod.index == 0)
    alone.plane.request("POST", alone.jobs, job())
    alone.player.until(lambda: alone.player.counts["finished"] == 1 and len(alone.player.pods()) == 2)
    alone.plane.request("DELETE", f"{alone.jobs}/work-a1", {"propagationPolicy": policy})
    alone.player.until(alone.gone, "an empty namespace")


def test_a_suspended_job_has_no_pods_until_it_is_resumed_without_a_job_controller(alone: Space) -> None:
    alone.player.script = lambda pod: Outcome(hold=True)
    alone.plane.request("POST", alone.jobs, job())
    alone.player.until(lambda: len(alone.player.pods("work-a1")) == 2)
    merge = "application/merge-patch+json"
    alone.plane.request("PATCH", f"{alone.jobs}/work-a1", {"spec": {"suspend": True}}, content=merge)
    alone.ended("Suspended")
    alone.player.until(lambda: not alone.player.pods())
    alone.player.script = succeed
    alone.plane.request("PATCH", f"{alone.jobs}/work-a1", {"spec": {"suspend": False}}, content=merge)
    alone.ended("Complete")


def test_a_server_is_scaled_without_a_deployment_controller(alone: Space) -> None:
    _serve(alone)
    _ready(alone)
    merge = "application/merge-patch+json"
    alone.plane.request("PATCH", f"{alone.apps}/deployments/server", {"spec": {"replicas": 0}}, content=merge)
    alone.player.until(alone.gone, "no pod")
    status = alone.plane.request("GET", f"{alone.apps}/deployments/server")["status"]
    assert (status["observedGeneration"], status.get("replicas", 0)) == (2, 0)


def test_a_brief_player_writes_a_job_once(bare: ControlPlane) -> None:
    with play(bare, jobs=True, brief=True, script=lambda pod: Outcome(code=65 * pod.index)) as player:
        space = Space(bare, "default", player)
        for completions, kind in ((1, "Complete"), (2, "Failed")):
            bare.request("POST", space.jobs, job(completions=completions, podFailurePolicy=POLICY))
            space.ended(kind)
            bare.request("DELETE", f"{space.jobs}/work-a1", {"propagationPolicy": "Background"})
            player.until(space.gone, "an empty namespace")
        assert player.errors == []


def test_what_vanished_between_two_lists_is_told() -> None:
    pages = [
        {"metadata": {"resourceVersion": "1"}, "items": [_item("a", 1), _item("b", 1)]},
        {"metadata": {"resourceVersion": "9"}, "items": [_item("b", 2), _item("c", 3)]},
    ]
    events: list[tuple[str, str]] = []

    class Listing(Client):
        def __init__(self) -> None:
            self.lists = 0

        async def request(self, verb: str, path: str, body: Any = None, *, content: str = "") -> Any:
            return pages[self.lists]

        async def _follow(self, base: str, version: str, *_: Any) -> str | None:
            if version == "9":
                raise asyncio.CancelledError
            return None  # 410

    listing = Listing()

    def listed() -> None:
        events.append(("LISTED", ""))
        listing.lists += 1

    async def watch() -> None:
        await listing.watch("/pods", lambda kind, item: events.append((kind, item["metadata"]["uid"])), listed)

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(watch())
    first = [("ADDED", "a"), ("ADDED", "b"), ("LISTED", "")]
    assert events == [*first, ("DELETED", "a"), ("MODIFIED", "b"), ("ADDED", "c"), ("LISTED", "")]


def _item(uid: str, version: int) -> Object:
    return {"metadata": {"uid": uid, "resourceVersion": str(version)}}


def test_variables_are_expanded_as_kubernetes_does() -> None:
    assert expand("$(A) $$(A) $(B) $ $$", {"A": "1"}) == "1 $(A) $(B) $ $"
