"""One reconciliation after the other, without a control plane: every way that it can take."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from psr_operator.api import Resource
from psr_operator.api.stored import parse
from psr_operator.backends import load_all
from psr_operator.backends.job import JOB
from psr_operator.controller import reconciler as module
from psr_operator.controller.client import Refused
from psr_operator.controller.informer import POD, Informer
from psr_operator.controller.paths import collection_of, object_path
from psr_operator.controller.prober import Prober
from psr_operator.controller.reconciler import OBSTACLE_SECONDS, RESTORE_SECONDS, UNASKED_SECONDS, Reconciler, fold
from psr_operator.controller.store import Store
from psr_operator.controller.workqueue import Key, WorkQueue
from psr_operator.controller.writer import Writer
from psr_operator.planner.types import Observed, Plan
from psr_operator.render import Settings
from tests.controller.memory_apiserver import MemoryClient, Object, refuse

NAMESPACE = "team"
KEY = Key("SFTJob", NAMESPACE, "it")
PATH = object_path("SFTJob", NAMESPACE, "it")
STATUS = f"PATCH {PATH}/status"
JOBS = collection_of(JOB, NAMESPACE)
EVENTS = f"POST {collection_of('Event', NAMESPACE)}"


class World:
    """An operator's parts without its process: nothing comes in by itself."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
        self.client = MemoryClient()
        self.store = Store()
        self.queue = WorkQueue(lambda: 0.0)
        self.created: list[Key] = []
        client: Any = self.client
        self.prober = Prober(client, self.store, self.queue, lambda: 0.0, lambda _: None)
        self.informer = Informer(client, self.store, self.queue, self.prober, load_all(), listed={None})
        writer = Writer(client, self.store, Settings("runtime:1", "inference:1"), self.informer.changed)
        self.reconciler = Reconciler(
            client, self.store, writer, self.prober, self.informer, lambda: self.now, self.created.append
        )

    def apply(self, raw: Object, *, seen: bool = True) -> Object:
        """A user writes an object; `seen`: a watch has reported it."""
        raw = self.client.put(object_path(raw["kind"], NAMESPACE, raw["metadata"]["name"]), raw)
        if seen:
            self.informer.own(raw, gone=False)
        return raw

    def watch(self, kind: Any, raw: Object, *, gone: bool = False) -> None:
        """A watch reports an object that one of ours owns."""
        (of,) = [item for item in self.informer.dependents() if item.kind == kind]
        self.informer.dependent(of, raw, gone=gone)

    def reconcile(self, key: Key = KEY) -> float | None:
        """Reconcile an object once."""
        return asyncio.run(self.reconciler.reconcile(key))

    def status(self, path: str = PATH) -> Any:
        return self.client.objects[path].get("status", {})

    def forget_requests(self) -> None:
        self.client.requests.clear()


@pytest.fixture
def world() -> World:
    return World()


def training(**spec: Any) -> Object:
    """An SFTJob as a user writes it."""
    fields = {
        "model": {"uri": "s3://bucket/m0"},
        "ift": "s3://bucket/ift.jsonl",
        "storage": {"uri": "s3://bucket/runs"},
        "retries": {"backoffSeconds": 0},
        **spec,
    }
    meta = {"name": "it", "namespace": NAMESPACE}
    return {"apiVersion": "psr.dev/v1alpha1", "kind": "SFTJob", "metadata": meta, "spec": fields}


def condition(status: Any, kind: str) -> Any:
    return next((item for item in status.get("conditions", ()) if item["type"] == kind), None)


# --- nothing to do


def test_an_object_that_is_not_there_costs_nothing(world: World) -> None:
    assert world.reconcile() is None
    assert world.client.requests == []


def test_an_object_that_is_being_deleted_is_left_alone(world: World) -> None:
    raw = training()
    world.apply(raw | {"metadata": {**raw["metadata"], "deletionTimestamp": "now"}})
    assert world.reconcile() is None
    assert world.client.requests == []


def test_an_object_that_has_gone_is_forgotten_with_its_obstacle(world: World) -> None:
    raw = world.apply(training())
    world.client.before = refuse(403, verb="POST", part="/jobs")
    world.reconcile()
    world.informer.own(raw, gone=True)
    assert world.reconcile() is None
    del world.client.objects[PATH]
    world.client.before = lambda _request: None
    world.apply(training())
    world.reconcile()
    assert f"{JOBS}/it-a1" in world.client.objects


# --- from intent to objects


def test_the_intent_is_stored_before_anything_is_made(world: World) -> None:
    world.apply(training())
    world.reconcile()
    assert world.client.writes() == [STATUS, f"POST {JOBS}"]
    assert world.created == [KEY]
    assert f"{JOBS}/it-a1" in world.client.objects


def test_once_more_changes_nothing(world: World) -> None:
    world.apply(training())
    world.reconcile()
    world.reconcile()
    world.forget_requests()
    world.reconcile()
    assert world.client.writes() == []


def test_what_a_crash_left_between_two_writes_is_finished(world: World) -> None:
    """The status names the attempt, and its Job was never made: once it was asked for, it is."""
    world.apply(training())
    world.client.before = refuse(503, verb="POST", part="/jobs")
    with pytest.raises(Refused):
        world.reconcile()
    world.client.before = lambda _request: None
    world.reconcile()
    assert [path for path in world.client.objects if path.startswith(JOBS)] == [f"{JOBS}/it-a1"]


def test_events_come_after_the_status_and_only_for_what_is_worth_one(world: World) -> None:
    world.apply(training())
    world.reconcile()
    end(world, "it-a1", code=65, message='{"error": "line 3"}')
    world.forget_requests()
    world.reconcile()
    assert world.client.writes() == [STATUS, EVENTS]
    stalled = condition(world.status(), "Stalled")
    assert (stalled["status"], stalled["reason"]) == ("True", "DataError")
    assert "line 3" in stalled["message"]


def end(world: World, name: str, *, code: int, message: str = "") -> None:
    """A Job ends, and its pod with it."""
    job = world.client.objects[f"{JOBS}/{name}"]
    text = f"Container stage for pod team/{name}-0 failed with exit code {code} matching FailJob rule at index 0"
    failed = {"type": "Failed", "status": "True", "reason": "PodFailurePolicy", "message": text}
    done = {"type": "Complete", "status": "True"}
    raw = world.client.put(f"{JOBS}/{name}", job | {"status": {"conditions": [failed if code else done]}})
    owner = {"uid": raw["metadata"]["uid"], "name": name, "controller": True}
    labels = {**raw["metadata"]["labels"], "batch.kubernetes.io/job-completion-index": "0"}
    terminated = {"state": {"terminated": {"exitCode": code, "message": message}}}
    pod = {
        "metadata": {"name": f"{name}-0", "namespace": NAMESPACE, "labels": labels, "ownerReferences": [owner]},
        "status": {"phase": "Failed" if code else "Succeeded", "containerStatuses": [terminated]},
    }
    world.watch(POD, world.client.put(object_path("Pod", NAMESPACE, f"{name}-0"), pod))
    world.watch(JOB, raw)


def test_a_result_makes_it_ready(world: World) -> None:
    world.apply(training())
    world.reconcile()
    end(world, "it-a1", code=0, message='{"output": "s3://bucket/m1", "digest": "sha256:1"}')
    world.reconcile()
    assert condition(world.status(), "Ready")["status"] == "True"
    assert world.status()["output"] == "s3://bucket/m1"


# --- somebody else wrote


def test_a_plan_from_an_old_version_is_not_stored_and_nothing_is_made_of_it(world: World) -> None:
    world.apply(training())
    world.apply(training(suspend=True), seen=False)
    with pytest.raises(Refused) as caught:
        world.reconcile()
    assert caught.value.code == 409
    assert not [path for path in world.client.objects if path.startswith(JOBS)]
    world.reconcile()  # the newer version was read
    assert condition(world.status(), "Suspended")["status"] == "True"
    assert not [path for path in world.client.objects if path.startswith(JOBS)]


def test_an_object_that_went_meanwhile_is_not_made_again(world: World) -> None:
    world.apply(training())
    world.client.before = refuse(409, "Conflict", verb="PATCH", part="/status")
    del world.client.objects[PATH]
    with pytest.raises(Refused):
        world.reconcile()
    assert world.reconcile() is None
    assert world.client.objects == {}


def test_other_errors_of_the_apiserver_are_the_queue_s_to_repeat(world: World) -> None:
    world.apply(training())
    world.client.before = refuse(429, verb="PATCH", part="/status")
    with pytest.raises(Refused, match="429"):
        world.reconcile()
    assert world.client.writes() == [STATUS]


# --- obstacles


def test_what_cannot_be_made_is_said_and_tried_without_noise(world: World) -> None:
    world.apply(training())
    world.client.before = refuse(403, "Forbidden", verb="POST", part="/jobs")
    assert world.reconcile() == OBSTACLE_SECONDS
    assert world.client.writes() == [STATUS, f"POST {JOBS}", STATUS, EVENTS]
    assert condition(world.status(), "Stalled")["reason"] == "JobRejected"
    world.forget_requests()
    assert world.reconcile() == OBSTACLE_SECONDS
    assert world.client.writes() == [f"POST {JOBS}?dryRun=All"], "no status, no event"
    world.client.before = lambda _request: None
    world.forget_requests()
    world.reconcile()
    assert f"{JOBS}/it-a1" in world.client.objects
    assert condition(world.status(), "Stalled") is None


def test_another_spec_is_tried_at_once(world: World) -> None:
    world.apply(training(storage={"uri": "s3://bucket/runs", "serviceAccountName": "nobody"}))
    assert world.reconcile() == OBSTACLE_SECONDS
    assert condition(world.status(), "Stalled")["reason"] == "ServiceAccountNotAllowed"
    raw = world.client.objects[PATH]
    world.apply(raw | {"spec": training()["spec"]})
    world.reconcile()
    assert f"{JOBS}/it-a1" in world.client.objects


def test_another_object_of_that_name_is_tried_at_once(world: World) -> None:
    first = world.apply(training())
    world.client.before = refuse(403, verb="POST", part="/jobs")
    world.reconcile()
    del world.client.objects[PATH]
    world.informer.own(first, gone=True)
    world.client.before = lambda _request: None
    world.apply(training())
    world.forget_requests()
    world.reconcile()
    assert f"POST {JOBS}?dryRun=All" not in world.client.writes()
    assert f"{JOBS}/it-a1" in world.client.objects


# --- proof


def lose(world: World) -> Object:
    """A Job that a watch calls gone; what it was."""
    raw = world.client.objects[f"{JOBS}/it-a1"]
    world.watch(JOB, raw, gone=True)
    return raw


def test_an_attempt_that_only_the_watch_has_lost_is_not_repeated(world: World) -> None:
    """Two writers at one output are worse than a request."""
    world.apply(training())
    world.reconcile()
    world.reconcile()
    lose(world)
    world.forget_requests()
    world.reconcile()
    assert f"GET {JOBS}" in [f"{item.verb} {item.path}" for item in world.client.requests]
    assert [path for path in world.client.objects if path.startswith(JOBS)] == [f"{JOBS}/it-a1"]
    assert world.store.workloads_of(world.client.objects[PATH]["metadata"]["uid"]) != []


def test_an_attempt_that_is_gone_is_repeated(world: World) -> None:
    world.apply(training())
    world.reconcile()
    world.reconcile()
    lose(world)
    del world.client.objects[f"{JOBS}/it-a1"]
    world.reconcile()
    world.now += timedelta(seconds=1)
    world.reconcile()
    assert [path for path in world.client.objects if path.startswith(JOBS)] == [f"{JOBS}/it-a2"]
    assert [item["disruptions"] for item in world.status()["attempts"].values()] == [1]


def test_what_the_proof_does_not_list_is_forgotten(world: World) -> None:
    """The store knows a pod that the apiserver does not: it must not hold the next attempt up for ever."""
    world.apply(training())
    world.reconcile()
    end(world, "it-a1", code=75)
    uid = world.client.objects[PATH]["metadata"]["uid"]
    del world.client.objects[object_path("Pod", NAMESPACE, "it-a1-0")]
    world.reconcile()
    assert world.store.pods.of(uid) == []


# --- what the models refuse


def test_an_object_that_the_models_refuse_says_what_is_wrong(world: World) -> None:
    world.apply(training(seed="many"))
    assert world.reconcile() is None
    stalled = condition(world.status(), "Stalled")
    assert stalled["reason"] == "InvalidSpec"
    assert "seed" in stalled["message"]
    assert world.client.writes() == [STATUS, EVENTS]
    world.forget_requests()
    world.reconcile()
    assert world.client.writes() == [], "once is enough"


# --- servers


def server(**more: Any) -> Object:
    spec = {"model": {"uri": "s3://bucket/m1"}, "storage": {"uri": "s3://bucket/runs"}}
    meta = {"name": "serve", "namespace": NAMESPACE}
    return {"apiVersion": "psr.dev/v1alpha1", "kind": "PolicyServer", "metadata": meta, "spec": spec, **more}


SERVER = Key("PolicyServer", NAMESPACE, "serve")


def test_a_server_that_was_ready_waits_for_a_new_operator_s_first_question(world: World) -> None:
    """Else every restart of the operator would make it look unready."""
    raw = world.apply(server(status={"endpoints": ["http://serve.team.svc:8000"]}))
    labels = {"psr.dev/uid": raw["metadata"]["uid"], "psr.dev/server": "serve"}
    ready = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
    meta = {"name": "serve-1", "namespace": NAMESPACE, "labels": labels}
    pod = world.client.put(object_path("Pod", NAMESPACE, "serve-1"), {"metadata": meta, "status": ready})
    world.watch(POD, pod)
    assert world.reconcile(SERVER) == UNASKED_SECONDS
    assert world.client.writes() == []
    world.prober.tried.add(pod["metadata"]["uid"])
    world.reconcile(SERVER)
    assert world.client.writes() != []


def test_a_server_that_is_not_wanted_is_scaled_to_nothing(world: World) -> None:
    world.apply(server())
    world.reconcile(SERVER)
    raw = world.client.objects[object_path("PolicyServer", NAMESPACE, "serve")]
    world.apply(raw | {"spec": raw["spec"] | {"active": False}})
    world.reconcile(SERVER)
    assert world.client.objects[object_path("Deployment", NAMESPACE, "serve")]["spec"]["replicas"] == 0


def test_devices_count_as_free_only_when_the_apiserver_lists_no_pod(world: World) -> None:
    world.apply(server())
    raw = world.client.objects[object_path("PolicyServer", NAMESPACE, "serve")]
    held = raw["spec"] | {"resources": {"gpus": 1}, "active": False}
    raw = world.apply(raw | {"spec": held, "status": {"holdsGpus": True}})
    assert parse(raw).status.holds_gpus
    labels = {"psr.dev/uid": raw["metadata"]["uid"], "psr.dev/server": "serve"}
    meta = {"name": "serve-1", "namespace": NAMESPACE, "labels": labels}
    world.client.put(object_path("Pod", NAMESPACE, "serve-1"), {"metadata": meta, "status": {"phase": "Running"}})
    world.reconcile(SERVER)
    assert world.status(object_path("PolicyServer", NAMESPACE, "serve"))["holdsGpus"]


# --- the planner


def test_plans_that_undo_each_other_are_an_error_and_no_endless_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = parse(training() | {"metadata": {"name": "it", "namespace": NAMESPACE, "uid": "u", "generation": 1}})

    def restless(item: Resource, observed: Observed, now: datetime) -> Plan:
        return Plan(status=item.status.model_copy(update={"step": item.status.step + "x"}))

    monkeypatch.setattr(module, "plan", restless)
    with pytest.raises(RuntimeError, match="undo each other"):
        fold(resource, Observed(), datetime.now(UTC))


def test_a_chain_of_decisions_is_one_write(world: World) -> None:
    """Failed and again: the attempt's end and the next one's begin are stored together."""
    world.apply(training())
    world.reconcile()
    end(world, "it-a1", code=75)
    del world.client.objects[f"{JOBS}/it-a1"]
    world.forget_requests()
    world.reconcile()
    assert [write for write in world.client.writes() if write.startswith("PATCH")] == [STATUS]
    assert f"{JOBS}/it-a2" in world.client.objects


# --- kinds that are newer or older than this version


def test_a_field_of_a_newer_kind_is_left_alone(world: World) -> None:
    """In the spec, in the status, and in an item of a list that is written anew."""
    raw = training(future="words")
    condition_before = {"type": "Ready", "status": "False", "reason": "New", "severity": "low"}
    raw["status"] = {"observedGeneration": 1, "conditions": [condition_before], "later": {"deep": 1}}
    world.apply(raw)
    world.reconcile()
    assert f"{JOBS}/it-a1" in world.client.objects
    stored = world.client.objects[PATH]
    assert stored["spec"]["future"] == "words"
    assert stored["status"]["later"] == {"deep": 1}
    assert condition(stored["status"], "Ready")["severity"] == "low"
    assert condition(stored["status"], "Stalled") is None


def test_a_field_that_an_older_kind_drops_is_said_once_and_not_written_again(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.client.dropped = {("status", "step"), ("status", "attempts", "train", "observed")}
    world.apply(training())
    world.reconcile()
    world.reconcile()
    world.forget_requests()
    for _ in range(3):
        world.reconcile()
    assert world.client.writes() == []
    end(world, "it-a1", code=0, message='{"output": "s3://bucket/m1", "digest": "sha256:1"}')
    world.reconcile()
    assert condition(world.status(), "Ready")["status"] == "True"
    assert caplog.text.count("SFTJob.status.step is not stored") == 1


# --- why nothing happens


def test_what_a_webhook_refuses_for_now_is_said_once_on_the_object(world: World) -> None:
    world.apply(training())
    world.client.before = refuse(500, "InternalError", verb="POST", part="/jobs")
    for _ in range(3):
        with pytest.raises(Refused):
            world.reconcile()
    assert world.client.writes().count(STATUS) == 2, "the intent, and what became of it"
    assert "500 InternalError" in world.status()["blocked"]
    assert condition(world.status(), "Reconciling")["status"] == "True"
    assert "500 InternalError" in condition(world.status(), "Ready")["message"]
    world.client.before = lambda _request: None
    assert world.reconcile() == 0.0
    world.reconcile()
    assert f"{JOBS}/it-a1" in world.client.objects
    assert "blocked" not in world.status()


def test_events_tell_why_a_job_has_no_pod(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(world.reconciler.events, "clock", lambda: now[0])
    world.apply(training())
    world.reconcile()
    uid = world.client.objects[f"{JOBS}/it-a1"]["metadata"]["uid"]
    quota = {"type": "Warning", "reason": "FailedCreate", "message": "exceeded quota: cpu"}
    fine = {"type": "Normal", "reason": "SuccessfulCreate", "message": "Created pod"}
    path = object_path("Event", NAMESPACE, "one")
    world.client.put(path, {"metadata": {"name": "one", "namespace": NAMESPACE}, **quota, "lastTimestamp": "1"})
    again = world.reconcile()
    assert again is not None
    assert 0 < again <= 2.0, "not asked at once: most pods come"
    now[0] += 2.0
    world.forget_requests()
    world.reconcile()
    asked = [item.path for item in world.client.requests if "involvedObject" in item.path]
    assert asked == [f"{collection_of('Event', NAMESPACE)}?involvedObject.uid={uid}"]
    assert "FailedCreate: exceeded quota: cpu" in world.status()["blocked"]
    assert world.status()["reason"] == "Pending"
    world.client.put(path, {"metadata": {"name": "one", "namespace": NAMESPACE}, **fine, "lastTimestamp": "2"})
    now[0] += 60.0
    world.reconcile()
    assert "blocked" not in world.status()


# --- names


def test_the_second_kind_of_a_name_names_what_it_makes_after_its_kind(world: World) -> None:
    other = {**training(), "kind": "StepDPOJob"}
    spec = {"model": {"uri": "s3://bucket/m1"}, "pairs": "s3://bucket/pairs", "storage": {"uri": "s3://bucket/runs"}}
    second = Key("StepDPOJob", NAMESPACE, "it")
    world.apply(training())
    world.reconcile()
    world.apply({**other, "spec": spec})
    for _ in range(2):
        world.reconcile()
        world.reconcile(second)
    made = sorted(path.removeprefix(f"{JOBS}/") for path in world.client.objects if path.startswith(JOBS))
    assert made == ["it-a1", "it-sdj-a1"]
    assert world.status(object_path("StepDPOJob", NAMESPACE, "it"))["naming"] == "Kind"
    assert "naming" not in world.status()


def test_a_server_s_name_is_no_job_s(world: World) -> None:
    meta = {"name": "it", "namespace": NAMESPACE}
    world.apply({**server(), "metadata": meta})
    world.apply(training())
    world.reconcile()
    assert f"{JOBS}/it-a1" in world.client.objects


def test_what_belongs_to_a_server_is_looked_for_from_time_to_time(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    world.apply(server())
    assert world.reconcile(SERVER) == RESTORE_SECONDS
    service = object_path("Service", NAMESPACE, "serve")
    del world.client.objects[service]
    world.reconcile(SERVER)
    assert service not in world.client.objects, "not at every look"
    now[0] += RESTORE_SECONDS
    world.reconcile(SERVER)
    assert service in world.client.objects
