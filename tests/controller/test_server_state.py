"""What a Deployment, its pods and their reports mean for a server; reports that mean nothing."""

from __future__ import annotations

from typing import Any

import pytest

from psr_operator.controller.facts import DeploymentFacts, deployment_facts, pod_facts
from psr_operator.controller.server_state import server_state
from psr_operator.planner.types import ServerState
from psr_runtime.protocol import FailureReason, ProgressReport, ServerReport
from tests.controller.test_workload_state import LABELS, container, ended, pod, with_containers


def deployment(replicas: int = 1, pods: int = 1, **more: Any) -> DeploymentFacts:
    facts = deployment_facts(
        {
            "metadata": {
                "name": "it",
                "namespace": "ns",
                "uid": "uid-deployment",
                "resourceVersion": "9",
                "generation": 2,
                "labels": {**LABELS, "psr.dev/server": "it"},
                "ownerReferences": [{"uid": "uid-it", "controller": True}],
            },
            "spec": {"replicas": replicas, "template": {"spec": {"containers": [{"image": "vllm:1"}]}}},
            "status": {
                "replicas": pods,
                "observedGeneration": more.get("seen", 2),
                "conditions": more.get("conditions", []),
            },
        }
    )
    assert facts is not None
    return facts


READY = [{"type": "Ready", "status": "True"}]
SERVES = ServerReport("Ready", "sha256:m", "sha256:m")


def server(
    facts: DeploymentFacts | None,
    *pods: dict[str, Any],
    report: ServerReport | None = SERVES,
    digest: str | None = "sha256:m",
    **more: Any,
) -> ServerState | None:
    facts_of_pods = [pod for raw in pods if (pod := pod_facts(raw)) is not None]
    reports = {pod.uid: report for pod in facts_of_pods if report is not None}
    url = "http://it.ns.svc:8000"
    return server_state("it", facts, facts_of_pods, reports, url=url, model="s3://m", digest=digest, **more)


def failed(digest: str) -> ServerReport:
    return ServerReport("Failed", digest, None, "wrong weights")


def test_a_server_is_ready_when_every_pod_proved_it() -> None:
    live = pod("Running", server=True, conditions=READY)
    ready = server(deployment(), live)
    assert ready is not None
    assert (ready.ready, ready.digest, ready.endpoints) == ("s3://m", "sha256:m", ("http://it.ns.svc:8000",))
    for other in (
        server(deployment(replicas=2), live),
        server(deployment(), pod("Running", server=True)),
        server(deployment(), live, report=None),
        server(deployment(), live, report=ServerReport("Swapping", "sha256:m")),
        server(deployment(), live, digest="sha256:next"),
        server(deployment(), live, pod("Running", server=True, name="old", conditions=READY, deleting=True)),
    ):
        assert other is not None
        assert other.ready is None


def test_a_server_is_gone_when_no_pod_object_is_left_and_none_can_come() -> None:
    assert server(None) is None
    for left in (
        server(deployment(replicas=0, pods=1)),
        server(deployment(replicas=0, pods=0, seen=1)),
        server(deployment(replicas=0, pods=0), pod("Running", server=True, deleting=True)),
        server(None, pod("Running", server=True, deleting=True)),
    ):
        assert left is not None
        assert not left.gone
    gone = server(deployment(replicas=0, pods=0), pod("Failed", server=True, code=1))
    assert gone is not None
    assert gone.gone


def test_a_server_that_cannot_serve_says_so() -> None:
    broken = server(
        deployment(), pod("Running", server=True), report=ServerReport("Failed", "sha256:m", None, "wrong weights")
    )
    assert broken is not None
    assert (broken.failed, broken.message) == (True, "wrong weights")
    old = server(
        deployment(), pod("Running", server=True), report=ServerReport("Failed", "sha256:old", None, "wrong weights")
    )
    assert old is not None
    assert not old.failed
    missing = server(deployment(), pod("Running", server=True, code=66, message='{"error": "no model"}'), report=None)
    assert missing is not None
    assert missing.reason is FailureReason.INPUT_MISSING


def test_a_server_s_own_word_for_its_failure_counts_more_than_its_exit_code() -> None:
    message = '{"error": "the weights were removed", "reason": "WeightsPruned"}'
    ended = server(deployment(), pod("Running", server=True, code=66, message=message), report=None)
    assert ended is not None
    assert ended.reason is FailureReason.WEIGHTS_PRUNED
    report = ServerReport("Failed", "sha256:m", None, "the weights were removed", FailureReason.WEIGHTS_PRUNED)
    running = server(deployment(), pod("Running", server=True), report=report)
    assert running is not None
    assert (running.failed, running.reason) == (True, FailureReason.WEIGHTS_PRUNED)


# --- what keeps a server from serving

QUOTA = 'pods "it-1" is forbidden: exceeded quota: gpus'
FAILING = [{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": QUOTA}]
UNSCHEDULABLE = [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}]
MOUNT = {"uid-it-a1-0-x": "FailedMount: claim not found"}
BLOCKED = {
    "no pod can be made": (deployment(pods=0, conditions=FAILING), [], {}, QUOTA),
    "no node": (deployment(), [pod("Pending", server=True, conditions=UNSCHEDULABLE)], {}, "0/3 nodes"),
    "no volume": (deployment(), [pod("Pending", server=True)], {"events": MOUNT}, "claim not found"),
    "no way to it": (
        deployment(),
        [pod("Running", server=True, conditions=READY)],
        {"report": None, "unreachable": {"uid-it-a1-0-x"}},
        "control port does not answer the operator",
    ),
    "no memory": (
        deployment(),
        [
            with_containers(
                pod("Running", server=True),
                container("server", restarts=1, last={"terminated": ended(137, "OOMKilled")}, running={}),
            )
        ],
        {"report": None},
        "OOMKilled: its memory limit is too small",
    ),
}


@pytest.mark.parametrize("case", BLOCKED)
def test_what_keeps_a_server_from_serving_is_said(case: str) -> None:
    facts, pods, more, words = BLOCKED[case]
    stuck = server(facts, *pods, **more)
    assert stuck is not None
    assert (stuck.blocked, stuck.failed, stuck.ready) == (True, False, None)
    assert words in stuck.message
    assert stuck.pending == (case in ("no pod can be made", "no node", "no volume"))


def test_a_server_that_runs_out_of_memory_again_and_again_has_failed_for_that() -> None:
    loops = container("server", restarts=3, last={"terminated": ended(137, "OOMKilled")})
    loops["state"] = {"waiting": {"reason": "CrashLoopBackOff"}}
    hopeless = server(deployment(), with_containers(pod("Running", server=True), loops), report=None)
    assert hopeless is not None
    assert hopeless.failed
    assert "OOMKilled" in hopeless.message


def test_a_server_beside_a_sidecar_is_judged_by_its_own_container() -> None:
    proxy = container("istio-proxy", restarts=9, last={"terminated": ended(1)}, running={})
    ours = container("server", ready=True, running={})
    served = server(deployment(), with_containers(pod("Running", server=True, conditions=READY), proxy, ours))
    assert served is not None
    assert served.ready == "s3://m"


# --- what pods say


@pytest.mark.parametrize(
    "said",
    [
        None,
        [],
        {},
        {"done": "1", "total": 2},
        {"done": True, "total": 2},
        {"done": 1, "total": 0},
        {"done": -1, "total": 2},
    ],
)
def test_progress_that_means_nothing(said: Any) -> None:
    assert ProgressReport.read(said) is None


def test_progress_that_means_something() -> None:
    quarter = ProgressReport.read({"done": 1, "total": 4, "eta": None})
    assert quarter is not None
    assert (quarter.fraction, quarter.eta) == (0.25, None)
    more = ProgressReport.read({"done": 9, "total": 4, "eta": float("nan")})
    assert more is not None
    assert (more.fraction, more.eta) == (1.0, None)


@pytest.mark.parametrize("said", [None, {}, {"state": 1}, {"state": "Ready", "digest": 1}])
def test_a_server_s_report_that_means_nothing(said: Any) -> None:
    assert ServerReport.read(said) is None
