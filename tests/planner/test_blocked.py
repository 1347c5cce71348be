"""What keeps work from going on is said where it happens and at every parent, up to the run; so is a pod that hangs."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from world import MODEL, STORAGE, resource

from psr_operator.api import Resource
from psr_operator.api.common import Attempts
from psr_operator.planner import plan
from psr_operator.planner.endings import HANGING_SECONDS
from psr_operator.planner.types import ExitClass, Observed, Phase, ServerState, WorkloadState

NOW = datetime(2026, 1, 1, tzinfo=UTC)
QUOTA = "it-a1: FailedCreate: exceeded quota: gpus"
PAIRS = {"model": MODEL, "problems": "s3://bucket/p.jsonl", "storage": STORAGE}
JOB = {"model": MODEL, "pairs": "s3://bucket/pairs", "storage": STORAGE}
GPU = {"resources": {"gpus": 1}}


def planned(item: Resource, observed: Observed | None = None, now: datetime = NOW) -> Resource:
    """An object with the status that its plan wants."""
    observed = observed or Observed()
    for _ in range(5):
        wanted = plan(item, observed, now)
        if wanted.status == item.status:
            break
        item = item.model_copy(update={"status": wanted.status})
    return item


def ready(item: Resource) -> Any:
    return item.status.condition("Ready")


def running(name: str, **status: Any) -> Resource:
    """A training whose attempt is under way."""
    job = resource("StepDPOJob", name, **JOB)
    attempts = {"train": Attempts(attempt=1, open=True, observed=True)}
    return job.model_copy(update={"status": job.status.model_copy(update={"attempts": attempts, **status})})


def child(kind: str, name: str, parent: Resource) -> Resource:
    """The child that a parent wants."""
    return next(
        item for item in plan(parent, Observed(), NOW).children if (item.kind, item.metadata.name) == (kind, name)
    )


def test_a_job_says_what_blocks_it_and_says_nothing_of_it_afterwards() -> None:
    waits = WorkloadState("it-a1", 1, Phase.PENDING, message=QUOTA, blocked=True)
    stuck = planned(running("it"), Observed((waits,)))
    assert (stuck.status.blocked, ready(stuck).reason, ready(stuck).message) == (QUOTA, "Pending", QUOTA)
    lost = WorkloadState("it-a1", 1, Phase.RUNNING, message="it-a1: node n7 does not answer any more", blocked=True)
    stuck = planned(stuck, Observed((lost,)))
    assert (ready(stuck).reason, stuck.status.blocked) == ("Training", lost.message)
    assert planned(stuck, Observed((replace(lost, message="", blocked=False),))).status.blocked is None


def test_what_blocks_a_server_reaches_the_run() -> None:
    """Server, generation, round, run: each says it of the one below."""
    run = resource("SelfRewardRun", "run", **PAIRS, iterations=[{"questions": 4}])
    server, round_ = child("PolicyServer", "run-server", run), child("SelfRewardIteration", "run-1", run)
    waits = ServerState("run-server", message="run-server-x: Unschedulable: 0/3 nodes", pending=True, blocked=True)
    server = planned(server, Observed(servers=(waits,)))
    assert (ready(server).reason, server.status.blocked) == ("Pending", waits.message)
    generation = planned(child("PreferenceGeneration", "run-1-pairs", round_), Observed(peers={"run-server": server}))
    assert ready(generation).reason == "WaitingForServer"
    round_ = planned(round_, Observed(children=(generation,)))
    run = planned(run, Observed(children=(round_, server)))
    for item in (generation, round_, run):
        assert item.status.blocked is not None
        assert item.status.blocked.endswith(waits.message)
        assert ready(item).message == item.status.blocked
    server = planned(server, Observed(servers=(ServerState("run-server", message="Starting"),)))
    generation = planned(generation, Observed(peers={"run-server": server}))
    run = planned(run, Observed(children=(planned(round_, Observed(children=(generation,))), server)))
    assert run.status.blocked is None


def test_a_deadline_of_scheduling_bounds_a_server_and_lets_it_go_on() -> None:
    server = resource("PolicyServer", "serve", model=MODEL, storage=STORAGE, schedulingDeadlineSeconds=60)
    waits = Observed(servers=(ServerState("serve", message="0/3 nodes", pending=True, blocked=True),))
    server = planned(server, waits)
    assert plan(server, waits, NOW).again_after == 60.0
    late = planned(server, waits, NOW + timedelta(seconds=60))
    assert late.status.holds("Stalled")
    assert ready(late).reason == "SchedulingDeadlineExceeded"
    assert "0/3 nodes" in ready(late).message
    started = Observed(servers=(ServerState("serve", message="Starting"),))
    late = planned(late, started, NOW + timedelta(seconds=61))
    assert (late.status.holds("Stalled"), late.status.pending_since) == (False, None)


def test_a_run_hands_its_deadline_of_scheduling_to_its_server() -> None:
    run = resource("SelfRewardRun", "run", **PAIRS, iterations=[{"questions": 4}], schedulingDeadlineSeconds=60)
    assert child("PolicyServer", "run-server", run).spec.scheduling_deadline_seconds == 60


HANGS = WorkloadState(
    "it-a1", 1, Phase.FAILED, ExitClass.DISRUPTION, ends_by=NOW.timestamp(), ending="pod it-a1-0 on node n7"
)
WAITING = {
    "suspended": running("it").model_copy(update={"spec": running("it").spec.model_copy(update={"suspend": True})}),
    "run again": running("it").model_copy(update={"spec": running("it").spec.model_copy(update={"rerun": "again"})}),
    "ended by a disruption": running("it"),
}


@pytest.mark.parametrize("case", WAITING)
def test_a_pod_that_hangs_is_named_with_its_node(case: str) -> None:
    job, observed = WAITING[case], Observed((HANGS,))
    before = planned(job, observed)
    assert before.status.blocked is None
    assert plan(before, observed, NOW).again_after == HANGING_SECONDS
    after = planned(before, observed, NOW + timedelta(seconds=HANGING_SECONDS))
    assert after.status.blocked is not None
    assert "pod it-a1-0 on node n7 should be gone by now" in after.status.blocked


def test_a_server_s_pod_that_hangs_is_named_where_training_waits_for_its_devices() -> None:
    server = resource("PolicyServer", "serve", model=MODEL, storage=STORAGE, active=False, **GPU)
    ending = ServerState("serve", ends_by=NOW.timestamp(), ending="pod serve-x on node n7")
    server = planned(server, Observed(servers=(ending,)), NOW + timedelta(seconds=HANGING_SECONDS))
    assert ready(server).reason == "Releasing"
    job = planned(resource("StepDPOJob", "it", **JOB, afterRelease="serve", **GPU), Observed(peers={"serve": server}))
    assert ready(job).reason == "WaitingForGPUs"
    assert job.status.blocked is not None
    assert "pod serve-x on node n7 should be gone by now" in job.status.blocked


def test_nothing_that_ends_has_a_time_in_a_process_of_this_machine() -> None:
    """`psr run`: there is no pod to be named."""
    state = replace(HANGS, ends_by=None, ending="")
    later = planned(running("it"), Observed((state,)), NOW + timedelta(days=1))
    assert later.status.blocked is None


def test_an_object_whose_name_is_taken_by_another_kind_names_what_it_makes_after_its_kind() -> None:
    job = resource("StepDPOJob", "it", **JOB)
    job = planned(job.model_copy(update={"status": job.status.model_copy(update={"naming": "Kind"})}))
    (workload,) = plan(job, Observed(), NOW).workloads
    assert workload.name == "it-sdj-a1"
    assert workload.outputs[0].startswith(f"{STORAGE['uri']}/default/it-sdj/")
    assert job.status.naming == "Kind"
