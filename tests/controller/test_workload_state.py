"""Facts of Jobs and pods, and what they mean for a Workload: exit classes, results, why it waits."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from psr_operator.backends.job import BACKEND
from psr_operator.controller.facts import pod_facts
from psr_operator.controller.workload_state import attempt_in, silent, workload_states
from psr_operator.planner.types import ExitClass, Phase, WorkloadState
from psr_runtime.protocol import FailureReason, ProgressReport, TerminationMessage

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


def state(
    raw_job: dict[str, Any] | None,
    *pods: dict[str, Any],
    progress: ProgressReport | None = None,
    events: dict[str, str] | None = None,
) -> WorkloadState:
    jobs = [facts for facts in [BACKEND.facts(raw_job) if raw_job else None] if facts is not None]
    facts_of_pods = [facts for raw in pods if (facts := pod_facts(raw)) is not None]
    (only,) = workload_states(jobs, facts_of_pods, {"it-a1": progress} if progress else {}, events or {})
    return only


RULE = "Container stage for pod ns/it-a1-0-x failed with exit code {code} matching FailJob rule at index {rule}"
EVICTED = [{"type": "DisruptionTarget", "status": "True"}]
FAILURES = {
    "rule 0 names the code": (
        job("Failed", "PodFailurePolicy", RULE.format(code=66, rule=0)),
        [pod("Failed", code=66, message='{"error": "no such model"}')],
        (ExitClass.MISSING, "no such model (exit code 66)", FailureReason.INPUT_MISSING),
    ),
    "the stage says more than its code": (
        job("Failed", "PodFailurePolicy", RULE.format(code=65, rule=0)),
        [pod("Failed", code=65, message='{"error": "another object owns it", "reason": "StorageInUse"}')],
        (ExitClass.DATA, "another object owns it (exit code 65)", FailureReason.STORAGE_IN_USE),
    ),
    "rule 1 is a disruption": (
        job("Failed", "PodFailurePolicy", "Pod ns/x has condition DisruptionTarget matching FailJob rule at index 1"),
        [pod("Failed", code=137, conditions=EVICTED)],
        (ExitClass.DISRUPTION, "rule at index 1", None),
    ),
    "rule 2 is temporary": (
        job("Failed", "PodFailurePolicy", RULE.format(code=75, rule=2)),
        [pod("Failed", code=75)],
        (ExitClass.TEMPORARY, "rule at index 2", FailureReason.TEMPORARY),
    ),
    "no rule matched: the container tells": (
        job("Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit"),
        [pod("Failed", code=1, message="Traceback: a rank died")],
        (ExitClass.FAILURE, "a rank died (exit code 1)", None),
    ),
    "out of memory": (
        job("Failed", "BackoffLimitExceeded", ""),
        [pod("Failed", code=137, reason="OOMKilled")],
        (ExitClass.MEMORY, "OOMKilled", None),
    ),
    "the one that broke, not those that were stopped for it": (
        job("Failed", "MaxFailedIndexesExceeded", "Job has exceeded the limit"),
        [
            pod("Failed", code=137, conditions=EVICTED, name="a"),
            pod("Failed", code=1, message="bug", name="b", index=1),
        ],
        (ExitClass.FAILURE, "bug (exit code 1)", None),
    ),
    "no pod is left": (
        job("Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit"),
        [],
        (ExitClass.FAILURE, "Job has reached", None),
    ),
}


@pytest.mark.parametrize("case", FAILURES)
def test_how_a_job_failed(case: str) -> None:
    raw, pods, (exit_class, message, reason) = FAILURES[case]
    failed = state(raw, *pods)
    assert failed.phase is Phase.FAILED
    assert failed.exit_class is exit_class
    assert message in failed.message
    assert failed.reason is reason


def test_a_result_comes_from_the_first_shard_and_only_from_a_whole_one() -> None:
    good = json.dumps({"output": "s3://b/o", "digest": "sha256:1", "pairs": 3})
    whole = state(job("Complete"), pod("Succeeded", code=0, message=good))
    assert (whole.phase, whole.result, whole.gone) == (Phase.SUCCEEDED, json.loads(good), True)
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


def test_progress_is_what_pods_report() -> None:
    running = state(job(), pod("Running"), progress=ProgressReport(0.25, 30.0))
    assert (running.phase, running.progress, running.eta) == (Phase.RUNNING, 0.25, 30.0)


def test_an_attempt_s_number_is_in_its_name() -> None:
    assert attempt_in("run-1-pairs-search-a12") == 12
    assert attempt_in("cut-off-1234abcd") == 0


def test_only_what_bears_our_labels_is_ours() -> None:
    foreign = job()
    foreign["metadata"]["labels"] = {"psr.dev/workload": "it-a1"}
    assert BACKEND.facts(foreign) is None
    bare = pod()
    bare["metadata"]["labels"] = LABELS
    assert pod_facts(bare) is None


@pytest.mark.parametrize("text", ["", "text", "[]", "{}", '{"output": 1, "digest": "d"}', '{"output": "o"}'])
def test_what_is_no_result(text: str) -> None:
    assert TerminationMessage.read(text).result is None


def test_what_a_stage_says_went_wrong() -> None:
    assert TerminationMessage.read('{"error": "line 3"}').error == "line 3"
    assert TerminationMessage.read("the end of a log\n").error == "the end of a log"


# --- containers by their names


def container(name: str, *, ready: bool = False, restarts: int = 0, **state: Any) -> dict[str, Any]:
    last = state.pop("last", {})
    return {"name": name, "ready": ready, "restartCount": restarts, "state": state, "lastState": last}


def ended(code: int, reason: str = "Error", message: str = "") -> dict[str, Any]:
    return {"exitCode": code, "reason": reason, "message": message}


def with_containers(
    raw: dict[str, Any], *containers: dict[str, Any], before: Sequence[dict[str, Any]] = (), node: str = "n7"
) -> dict[str, Any]:
    status = {**raw["status"], "containerStatuses": list(containers), "initContainerStatuses": list(before)}
    return {**raw, "spec": {"nodeName": node}, "status": status}


PROXY = container("istio-proxy", ready=True, running={"startedAt": "now"})


def test_our_container_is_known_by_its_name_wherever_it_stands() -> None:
    good = json.dumps({"output": "s3://b/o", "digest": "sha256:1"})
    ours = container("stage", terminated=ended(0, "Completed", good))
    proxy = container("istio-proxy", terminated=ended(0, "Completed", "proxy: bye"))
    for order in ((proxy, ours), (ours, proxy)):
        done = state(job("Complete"), with_containers(pod("Succeeded"), *order))
        assert done.result == json.loads(good)
    broken = container("stage", terminated=ended(65, message='{"error": "line 3"}'))
    failed = state(job("Failed", "BackoffLimitExceeded"), with_containers(pod("Failed"), proxy, broken))
    assert (failed.exit_class, failed.message) == (ExitClass.DATA, "line 3 (exit code 65)")


def test_a_back_end_may_call_its_container_otherwise() -> None:
    raw = with_containers(pod("Failed"), PROXY, container("node", terminated=ended(66)))
    raw["metadata"]["annotations"] = {"kubectl.kubernetes.io/default-container": "node"}
    facts = pod_facts(raw)
    assert facts is not None
    assert facts.exit_code == 66


def test_an_init_container_s_end_is_the_pod_s() -> None:
    waits = container("stage", waiting={"reason": "PodInitializing"})
    bring = container("bring-runtime", terminated=ended(1, message="no space left on device"))
    failed = state(job("Failed", "BackoffLimitExceeded"), with_containers(pod("Failed"), waits, before=[bring]))
    assert "container bring-runtime ended with exit code 1: no space left on device" in failed.message
    memory = container("istio-init", terminated=ended(137, "OOMKilled"))
    failed = state(job("Failed", "BackoffLimitExceeded"), with_containers(pod("Failed"), waits, before=[memory]))
    assert failed.exit_class is ExitClass.MEMORY


def test_a_sidecar_that_breaks_is_named_and_our_result_is_not_its() -> None:
    ours = container("stage", terminated=ended(0, "Completed", "done"))
    proxy = container("istio-proxy", terminated=ended(255, message="no certificate"))
    failed = state(job("Failed", "BackoffLimitExceeded"), with_containers(pod("Failed"), proxy, ours))
    assert failed.exit_class is ExitClass.FAILURE
    assert "container istio-proxy ended with exit code 255: no certificate" in failed.message


def test_what_keeps_containers_waiting_is_said_whichever_they_are() -> None:
    waits = container("stage", waiting={"reason": "PodInitializing"})
    loops = container("init", restarts=4, waiting={"reason": "CrashLoopBackOff", "message": "back-off 40s"})
    loops["lastState"] = {"terminated": ended(2)}
    stuck = state(job(), with_containers(pod("Pending"), waits, before=[loops]))
    assert stuck.blocked
    assert "container init: CrashLoopBackOff: back-off 40s (it ended with exit code 2" in stuck.message
    image = container("istio-proxy", waiting={"reason": "ImagePullBackOff", "message": "no such image"})
    stuck = state(
        job(), with_containers(pod("Pending"), image, container("stage", waiting={"reason": "PodInitializing"}))
    )
    assert "container istio-proxy: ImagePullBackOff: no such image" in stuck.message
    secret = container("stage", waiting={"reason": "CreateContainerConfigError", "message": 'secret "key" not found'})
    assert 'secret "key" not found' in state(job(), with_containers(pod("Pending"), secret)).message


def test_a_sidecar_that_keeps_a_pod_is_said() -> None:
    ours = container("stage", terminated=ended(0, "Completed"))
    kept = state(job(), with_containers(pod("Running"), PROXY, ours))
    assert kept.blocked
    assert "istio-proxy goes on and keeps the pod" in kept.message


# --- nodes and events


def test_a_node_that_is_lost_is_named() -> None:
    running = container("stage", ready=True, running={"startedAt": "now"})
    lost = [{"type": "Ready", "status": "False"}]
    stuck = state(job(), with_containers(pod("Running", conditions=lost), running))
    assert (stuck.phase, stuck.blocked) == (Phase.RUNNING, True)
    assert "node n7 does not answer" in stuck.message
    sidecar = [{"type": "Ready", "status": "False", "reason": "ContainersNotReady"}]
    assert not state(job(), with_containers(pod("Running", conditions=sidecar), running)).blocked


def test_a_pod_that_ends_is_known_with_its_node_and_its_time() -> None:
    raw = with_containers(pod("Running"), container("stage", running={"startedAt": "now"}))
    raw["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:30Z"
    going = state(None, raw)
    assert going.ends_by == datetime(2026, 1, 1, 0, 0, 30, tzinfo=UTC).timestamp()
    assert going.ending == "pod it-a1-0-x on node n7"


def test_events_are_read_of_what_is_silent_and_say_why_it_waits() -> None:
    facts = BACKEND.facts(job())
    creating = pod_facts(with_containers(pod("Pending"), container("stage", waiting={"reason": "ContainerCreating"})))
    unbound = pod_facts(with_containers(pod("Pending"), node=""))
    running, held = pod_facts(pod("Running")), BACKEND.facts(job(suspend=True))
    assert facts is not None
    assert held is not None
    assert creating is not None
    assert unbound is not None
    assert running is not None
    assert silent([facts], []) == {"uid-job"}
    assert silent([facts], [creating]) == {"uid-it-a1-0-x"}
    assert silent([facts], [unbound]) == silent([facts], [running]) == silent([held], []) == set()
    quota = "FailedCreate: Error creating: exceeded quota"
    stuck = state(job(), events={"uid-job": quota})
    assert (stuck.phase, stuck.blocked, stuck.message) == (Phase.PENDING, True, f"it-a1: {quota}")
