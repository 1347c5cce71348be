"""Facts of Jobs and pods, and what they mean: exit classes, results, reasons to wait, servers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from psr_operator.controller.ask import share_of, told_of
from psr_operator.controller.facts import DeploymentFacts, deployment_facts, error_of, job_facts, pod_facts, result_of
from psr_operator.controller.observe import Heard, Told, attempt_of, server_state, workload_states
from psr_operator.planner.types import ExitClass, Phase, ServerState, WorkloadState

LABELS = {
    "app.kubernetes.io/managed-by": "psr",
    "psr.dev/kind": "StepDPOJob",
    "psr.dev/name": "it",
    "psr.dev/uid": "uid-it",
}


def job(ended: str = "", reason: str = "", message: str = "", **spec: Any) -> dict[str, Any]:
    conditions = [{"type": ended, "status": "True", "reason": reason, "message": message}] if ended else []
    return {
        "metadata": {
            "name": "it-a1",
            "namespace": "ns",
            "uid": "uid-job",
            "resourceVersion": "7",
            "labels": {**LABELS, "psr.dev/workload": "it-a1", "psr.dev/attempt": "1", "psr.dev/stage": "step-dpo"},
            "ownerReferences": [{"uid": "uid-it", "controller": True}],
        },
        "spec": {"completions": 1, **spec},
        "status": {"conditions": conditions},
    }


def pod(phase: str = "Running", *, server: bool = False, code: int | None = None, **more: Any) -> dict[str, Any]:
    end = {"exitCode": code, "reason": more.get("reason", "Error"), "message": more.get("message", "")}
    unit = {"psr.dev/server": "it"} if server else {"psr.dev/workload": "it-a1"}
    name = more.get("name", "it-a1-0-x")
    return {
        "metadata": {
            "name": name,
            "namespace": "ns",
            "uid": f"uid-{name}",
            "resourceVersion": "8",
            "labels": {**LABELS, **unit, "batch.kubernetes.io/job-completion-index": str(more.get("index", 0))},
            "ownerReferences": [{"uid": "uid-set" if server else "uid-job", "name": "owner", "controller": True}],
            **({"deletionTimestamp": "now"} if more.get("deleting") else {}),
        },
        "status": {
            "phase": phase,
            "podIP": "10.0.0.1",
            "conditions": more.get("conditions", []),
            "containerStatuses": [
                {"state": {"terminated": end} if code is not None else more.get("state", {}), "restartCount": 0}
            ],
        },
    }


def state(raw_job: dict[str, Any] | None, *pods: dict[str, Any], heard: Heard | None = None) -> WorkloadState:
    jobs = [facts for facts in [job_facts(raw_job) if raw_job else None] if facts is not None]
    found = [facts for raw in pods if (facts := pod_facts(raw)) is not None]
    (only,) = workload_states(jobs, found, {"it-a1": heard} if heard else {})
    return only


RULE = "Container stage for pod ns/it-a1-0-x failed with exit code {code} matching FailJob rule at index {rule}"
EVICTED = [{"type": "DisruptionTarget", "status": "True"}]
FAILURES = {
    "rule 0 names the code": (
        job("Failed", "PodFailurePolicy", RULE.format(code=66, rule=0)),
        [pod("Failed", code=66, message='{"error": "no such model"}')],
        (ExitClass.MISSING, "no such model (exit code 66)"),
    ),
    "rule 1 is a disruption": (
        job("Failed", "PodFailurePolicy", "Pod ns/x has condition DisruptionTarget matching FailJob rule at index 1"),
        [pod("Failed", code=137, conditions=EVICTED)],
        (ExitClass.DISRUPTION, "rule at index 1"),
    ),
    "rule 2 is temporary": (
        job("Failed", "PodFailurePolicy", RULE.format(code=75, rule=2)),
        [pod("Failed", code=75)],
        (ExitClass.TEMPORARY, "rule at index 2"),
    ),
    "no rule matched: the container tells": (
        job("Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit"),
        [pod("Failed", code=1, message="Traceback: a rank died")],
        (ExitClass.FAILURE, "a rank died (exit code 1)"),
    ),
    "out of memory": (
        job("Failed", "BackoffLimitExceeded", ""),
        [pod("Failed", code=137, reason="OOMKilled")],
        (ExitClass.MEMORY, "OOMKilled"),
    ),
    "the one that broke, not those that were stopped for it": (
        job("Failed", "MaxFailedIndexesExceeded", "Job has exceeded the limit"),
        [
            pod("Failed", code=137, conditions=EVICTED, name="a"),
            pod("Failed", code=1, message="bug", name="b", index=1),
        ],
        (ExitClass.FAILURE, "bug (exit code 1)"),
    ),
    "no pod is left": (
        job("Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit"),
        [],
        (ExitClass.FAILURE, "Job has reached"),
    ),
}


@pytest.mark.parametrize("case", FAILURES)
def test_how_a_job_failed(case: str) -> None:
    raw, pods, (how, message) = FAILURES[case]
    found = state(raw, *pods)
    assert found.phase is Phase.FAILED
    assert found.exit_class is how
    assert message in found.message


def test_a_result_comes_from_the_first_shard_and_only_from_a_whole_one() -> None:
    good = json.dumps({"output": "s3://b/o", "digest": "sha256:1", "pairs": 3})
    found = state(job("Complete"), pod("Succeeded", code=0, message=good))
    assert (found.phase, found.result, found.gone) == (Phase.SUCCEEDED, json.loads(good), True)
    assert state(job("Complete"), pod("Succeeded", code=0, message="a log line")).result is None
    assert state(job("Complete"), pod("Succeeded", code=0, message=good, index=1)).result is None
    assert state(job("Complete")).result is None


def test_a_deleted_job_is_gone_when_its_pods_are() -> None:
    assert state(None, pod("Running", deleting=True)) == WorkloadState(
        "it-a1", 1, Phase.FAILED, ExitClass.DISRUPTION, message="it-a1 was deleted", gone=False
    )
    deleting = job()
    deleting["metadata"]["deletionTimestamp"] = "now"
    assert not state(deleting).gone


def test_waiting_says_why() -> None:
    unschedulable = [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}]
    assert "0/3 nodes" in state(job(), pod("Pending", conditions=unschedulable)).message
    pull = {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}
    assert "no such image" in state(job(), pod("Pending", state=pull)).message
    creating = {"waiting": {"reason": "ContainerCreating"}}
    assert state(job(), pod("Pending", state=creating)).message == ""
    queued = state(job(suspend=True))
    assert (queued.phase, queued.queued) == (Phase.PENDING, True)


def test_progress_is_what_was_heard() -> None:
    found = state(job(), pod("Running"), heard=Heard(0.25, 30.0))
    assert (found.phase, found.progress, found.eta) == (Phase.RUNNING, 0.25, 30.0)


def test_an_attempt_s_number_is_in_its_name() -> None:
    assert attempt_of("run-1-pairs-search-a12") == 12
    assert attempt_of("cut-off-1234abcd") == 0


def test_only_what_bears_our_labels_is_ours() -> None:
    foreign = job()
    foreign["metadata"]["labels"] = {"psr.dev/workload": "it-a1"}
    assert job_facts(foreign) is None
    bare = pod()
    bare["metadata"]["labels"] = LABELS
    assert pod_facts(bare) is None


@pytest.mark.parametrize("text", ["", "text", "[]", "{}", '{"output": 1, "digest": "d"}', '{"output": "o"}'])
def test_what_is_no_result(text: str) -> None:
    assert result_of(text) is None


def test_what_a_stage_says_went_wrong() -> None:
    assert error_of('{"error": "line 3"}') == "line 3"
    assert error_of("the end of a log\n") == "the end of a log"


# --- servers


def deployment(replicas: int = 1, pods: int = 1, **more: Any) -> DeploymentFacts:
    found = deployment_facts(
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
            "status": {"replicas": pods, "observedGeneration": more.get("seen", 2)},
        }
    )
    assert found is not None
    return found


READY = [{"type": "Ready", "status": "True"}]
SERVES = Told("Ready", "sha256:m", "sha256:m", "")


def server(
    made: DeploymentFacts | None, *pods: dict[str, Any], told: Told | None = SERVES, digest: str | None = "sha256:m"
) -> ServerState | None:
    found = [facts for raw in pods if (facts := pod_facts(raw)) is not None]
    heard = {item.uid: told for item in found if told is not None}
    return server_state("it", made, found, heard, url="http://it.ns.svc:8000", model="s3://m", digest=digest)


def test_a_server_is_ready_when_every_pod_proved_it() -> None:
    live = pod("Running", server=True, conditions=READY)
    found = server(deployment(), live)
    assert found is not None
    assert (found.ready, found.digest, found.endpoints) == ("s3://m", "sha256:m", ("http://it.ns.svc:8000",))
    for other in (
        server(deployment(replicas=2), live),
        server(deployment(), pod("Running", server=True)),
        server(deployment(), live, told=None),
        server(deployment(), live, told=Told("Swapping", "sha256:m", None, "")),
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
    broken = server(deployment(), pod("Running", server=True), told=Told("Failed", "sha256:m", None, "wrong weights"))
    assert broken is not None
    assert (broken.failed, broken.message) == (True, "wrong weights")
    old = server(deployment(), pod("Running", server=True), told=Told("Failed", "sha256:old", None, "wrong weights"))
    assert old is not None
    assert not old.failed
    missing = server(deployment(), pod("Running", server=True, code=66, message='{"error": "no model"}'), told=None)
    assert missing is not None
    assert missing.reason == "InputMissing"


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
    assert share_of(said) is None


def test_progress_that_means_something() -> None:
    found = share_of({"done": 1, "total": 4, "eta": None})
    assert found is not None
    assert (found.fraction, found.eta) == (0.25, None)
    more = share_of({"done": 9, "total": 4, "eta": float("nan")})
    assert more is not None
    assert (more.fraction, more.eta) == (1.0, None)


@pytest.mark.parametrize("said", [None, {}, {"state": 1}, {"state": "Ready", "digest": 1}])
def test_a_server_s_words_that_mean_nothing(said: Any) -> None:
    assert told_of(said) is None
