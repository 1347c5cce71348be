"""Every guard of the writer against an apiserver in memory: what it writes, and what it leaves alone."""

from __future__ import annotations

import asyncio
import base64
import copy
from collections.abc import Coroutine
from datetime import UTC, datetime
from typing import Any, TypeVar

import pytest

from psr_operator.api import PolicyServer, SFTJob
from psr_operator.api.common import OwnerReference, Resources
from psr_operator.api.stored import parse, to_stored
from psr_operator.backends.job import BACKEND
from psr_operator.conditions import Transition
from psr_operator.controller.client import Refused
from psr_operator.controller.creating import Obstacle
from psr_operator.controller.facts import deployment_facts
from psr_operator.controller.paths import object_path
from psr_operator.controller.store import Entry, Store, key_of
from psr_operator.controller.workqueue import Key
from psr_operator.controller.writer import Writer, difference
from psr_operator.planner.types import Placement, Server, Workload
from psr_operator.reasons import Reason
from psr_operator.render import ANNOTATION_MODEL_HASH, Settings
from psr_runtime.config import EngineConfig, ModelSource, SFTStage, StorageAccess
from tests.controller.memory_apiserver import MemoryClient, Request, refuse

T = TypeVar("T")
NAMESPACE = "team"
JOBS = "/apis/batch/v1/namespaces/team/jobs"
DEPLOYMENT = object_path("Deployment", NAMESPACE, "serve")
SETTINGS = Settings("registry.test/runtime:1", "registry.test/inference:1")
STORAGE = {"uri": "s3://bucket/runs"}


def training(name: str = "it", **spec: Any) -> dict[str, Any]:
    """An SFTJob as a user writes it."""
    fields = {"model": {"uri": "s3://bucket/m0"}, "ift": "s3://bucket/ift.jsonl", "storage": STORAGE, **spec}
    meta = {"name": name, "namespace": NAMESPACE}
    return {"apiVersion": "psr.dev/v1alpha1", "kind": "SFTJob", "metadata": meta, "spec": fields}


class World:
    """A writer, what it knows, and the apiserver that it writes to."""

    def __init__(self) -> None:
        self.client = MemoryClient()
        self.store = Store()
        self.changes: list[tuple[Key, bool]] = []
        client: Any = self.client
        self.writer = Writer(client, self.store, SETTINGS, self._changed)

    def _changed(self, key: Key, _: Entry, spec: bool) -> None:
        self.changes.append((key, spec))

    def own(self, body: dict[str, Any]) -> Any:
        """An object of ours that is stored and known."""
        raw = self.client.put(object_path(body["kind"], NAMESPACE, body["metadata"]["name"]), body)
        self.store.put(raw)
        return parse(raw)

    def entry(self, resource: Any) -> Entry:
        entry = self.store.get(Key(resource.kind, NAMESPACE, resource.metadata.name))
        assert entry is not None
        return entry


@pytest.fixture
def world() -> World:
    return World()


def wait(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


def workload(name: str = "it-a1", **placement: Any) -> Workload:
    config = SFTStage(model=ModelSource(uri="s3://bucket/m0"), ift="s3://bucket/ift.jsonl", output="s3://bucket/m1")
    return Workload(name, "sft", (config,), 1, placement=Placement(**placement))


# --- a Workload


def test_a_workload_is_created_once_and_known_at_once(world: World) -> None:
    owner = world.own(training())
    assert wait(world.writer.workload(owner, workload()))
    assert world.client.writes() == [f"POST {JOBS}"]
    assert [facts.name for facts in world.store.workloads_of(owner.metadata.uid)] == ["it-a1"]
    assert not wait(world.writer.workload(owner, workload()))
    assert len(world.client.requests) == 1, "nobody was asked again"


def test_a_workload_that_exists_already_is_taken_up(world: World) -> None:
    """Its answer was lost, or an operator was killed in between."""
    owner = world.own(training())
    (body,) = BACKEND.objects(workload(), owner, SETTINGS)
    world.client.put(f"{JOBS}/it-a1", body)
    assert not wait(world.writer.workload(owner, workload()))
    assert [facts.name for facts in world.store.workloads_of(owner.metadata.uid)] == ["it-a1"]


def test_a_workload_s_name_may_be_somebody_else_s(world: World) -> None:
    owner = world.own(training())
    before = world.client.put(f"{JOBS}/it-a1", {"metadata": {"name": "it-a1", "ownerReferences": []}})
    with pytest.raises(Obstacle, match="Job/it-a1 exists and belongs to somebody else") as caught:
        wait(world.writer.workload(owner, workload()))
    assert caught.value.reason is Reason.NAME_COLLISION
    assert caught.value.body is not None, "so that it can be tried again"
    assert world.client.objects[f"{JOBS}/it-a1"] == before


def test_an_owner_of_the_same_name_and_another_uid_is_somebody_else(world: World) -> None:
    owner = world.own(training())
    (body,) = BACKEND.objects(workload(), owner, SETTINGS)
    body["metadata"]["ownerReferences"][0]["uid"] = "of-its-forerunner"
    world.client.put(f"{JOBS}/it-a1", body)
    with pytest.raises(Obstacle, match="belongs to somebody else"):
        wait(world.writer.workload(owner, workload()))


def test_what_goes_between_two_requests_is_tried_again_later(world: World) -> None:
    owner = world.own(training())
    world.client.before = refuse(409, "AlreadyExists", verb="POST", part="jobs")
    with pytest.raises(Refused, match="AlreadyExists"):
        wait(world.writer.workload(owner, workload()))


@pytest.mark.parametrize("code", [403, 422])
def test_what_the_apiserver_refuses_is_an_obstacle(world: World, code: int) -> None:
    owner = world.own(training())
    world.client.before = refuse(code, verb="POST", part="jobs")
    with pytest.raises(Obstacle, match=str(code)) as caught:
        wait(world.writer.workload(owner, workload()))
    assert caught.value.reason == "JobRejected"
    assert caught.value.collection == JOBS


@pytest.mark.parametrize("code", [404, 408, 409, 429, 500, 503])
def test_what_may_pass_is_none(world: World, code: int) -> None:
    """404: the namespace, or the kind, is not there now."""
    owner = world.own(training())
    world.client.before = refuse(code, verb="POST", part="jobs")
    with pytest.raises(Refused, match=str(code)):
        wait(world.writer.workload(owner, workload()))


def test_what_cannot_be_rendered_is_an_obstacle_without_a_request(world: World) -> None:
    owner = world.own(training())
    storage = owner.spec.storage.model_copy(update={"service_account_name": "nobody"})
    with pytest.raises(Obstacle, match="serviceAccountName: nobody") as caught:
        wait(world.writer.workload(owner, workload(storage=storage)))
    assert caught.value.reason is Reason.SERVICE_ACCOUNT_NOT_ALLOWED
    assert world.client.requests == []


def test_a_workload_is_stopped_by_deleting_the_object_of_its_uid(world: World) -> None:
    owner = world.own(training())
    wait(world.writer.workload(owner, workload()))
    (facts,) = world.store.workloads_of(owner.metadata.uid)
    wait(world.writer.stop(facts))
    assert f"{JOBS}/it-a1" not in world.client.objects
    wait(world.writer.stop(facts))  # it is gone already
    another = world.client.put(f"{JOBS}/it-a1", {"metadata": {"name": "it-a1"}})
    wait(world.writer.stop(facts))
    assert world.client.objects[f"{JOBS}/it-a1"] == another


def test_a_workload_that_is_going_is_not_deleted_again(world: World) -> None:
    owner = world.own(training())
    (body,) = BACKEND.objects(workload(), owner, SETTINGS)
    raw = world.client.put(f"{JOBS}/it-a1", {**body, "metadata": {**body["metadata"], "deletionTimestamp": "now"}})
    facts = BACKEND.facts(raw)
    assert facts is not None
    wait(world.writer.stop(facts))
    assert world.client.writes() == []


# --- children


def child(parent: Any, **spec: Any) -> SFTJob:
    """What a parent wants; its uid and versions are the apiserver's to give."""
    wanted = parse(training("child", **spec) | {"metadata": {"name": "child", "namespace": NAMESPACE, "uid": ""}})
    reference = OwnerReference(kind=parent.kind, name=parent.metadata.name, uid=parent.metadata.uid)
    meta = wanted.metadata.model_copy(update={"owner_references": [reference]})
    return wanted.model_copy(update={"metadata": meta})


CHILD = object_path("SFTJob", NAMESPACE, "child")


def test_a_child_is_created_and_known_at_once(world: World) -> None:
    parent = world.own(training())
    assert wait(world.writer.child(parent, child(parent)))
    key = Key("SFTJob", NAMESPACE, "child")
    assert list(world.store.children(parent.metadata.uid)) == [key]
    assert world.changes == [(key, True)]


def test_a_child_as_it_is_wanted_costs_no_request(world: World) -> None:
    parent = world.own(training())
    wait(world.writer.child(parent, child(parent)))
    for _ in range(2):
        assert not wait(world.writer.child(parent, child(parent)))
    assert len(world.client.requests) == 1


def test_of_a_child_s_spec_only_what_differs_is_written(world: World) -> None:
    parent = world.own(training())
    wait(world.writer.child(parent, child(parent, suspend=True, image="mine:1")))
    known = world.entry(child(parent))
    wait(world.writer.child(parent, child(parent, image="mine:2")))
    (patch,) = [item.body for item in world.client.requests if item.verb == "PATCH"]
    assert patch["spec"]["image"] == "mine:2"
    assert patch["spec"].get("suspend", "left alone") in (None, False), "what is not set any more goes"
    assert set(patch["spec"]) == {"image", "suspend"}
    assert patch["metadata"] == {"uid": known.uid, "resourceVersion": str(known.version)}
    assert parse(world.client.objects[CHILD]).spec == child(parent, image="mine:2").spec


def test_a_child_that_has_changed_since_is_not_overwritten(world: World) -> None:
    parent = world.own(training())
    wait(world.writer.child(parent, child(parent)))
    newer = world.client.put(CHILD, world.client.objects[CHILD] | {"status": {"reason": "Training"}})
    with pytest.raises(Refused, match="resourceVersion"):
        wait(world.writer.child(parent, child(parent, image="mine:2")))
    assert world.client.objects[CHILD] == newer


def test_a_child_s_change_that_the_apiserver_refuses_is_an_obstacle(world: World) -> None:
    parent = world.own(training())
    wait(world.writer.child(parent, child(parent)))
    world.client.before = refuse(422, "Invalid", verb="PATCH", part="child")
    with pytest.raises(Obstacle, match="422") as caught:
        wait(world.writer.child(parent, child(parent, image="mine:2")))
    assert caught.value.reason is Reason.CHILD_REJECTED


def test_a_child_that_is_refused_says_its_kind(world: World) -> None:
    parent = world.own(training())
    world.client.before = refuse(403, "Forbidden", verb="POST", part="sftjobs")
    with pytest.raises(Obstacle) as caught:
        wait(world.writer.child(parent, child(parent)))
    assert caught.value.reason == "SFTJobRejected"


def test_somebody_else_s_object_is_no_child(world: World) -> None:
    parent = world.own(training())
    world.own(training("child"))
    with pytest.raises(Obstacle, match="SFTJob/child exists and belongs to somebody else"):
        wait(world.writer.child(parent, child(parent)))
    assert world.client.writes() == []


def test_a_child_that_is_going_is_left_alone(world: World) -> None:
    parent = world.own(training())
    stored = to_stored(child(parent))
    world.own(stored | {"metadata": {**stored["metadata"], "deletionTimestamp": "now"}})
    assert not wait(world.writer.child(parent, child(parent, image="mine:2")))
    assert world.client.writes() == []


# --- statuses


def test_a_status_is_stored_against_the_version_that_it_was_planned_from(world: World) -> None:
    resource = world.own(training())
    entry = world.entry(resource)
    wait(
        world.writer.status(key_of(entry.raw()), entry, {}, {"reason": "Starting", "attempts": {"sft": {"open": True}}})
    )
    (request,) = world.client.requests
    assert (request.verb, request.path) == ("PATCH", object_path("SFTJob", NAMESPACE, "it") + "/status")
    assert request.body["metadata"] == {"uid": entry.uid, "resourceVersion": str(entry.version)}
    assert world.entry(resource).raw()["status"]["reason"] == "Starting", "known at once"
    assert world.changes == [(Key("SFTJob", NAMESPACE, "it"), False)]


def test_a_status_that_has_changed_since_is_not_overwritten(world: World) -> None:
    resource = world.own(training())
    path = object_path("SFTJob", NAMESPACE, "it")
    world.client.put(path, world.client.objects[path] | {"status": {"reason": "Training"}})
    entry = world.entry(resource)
    with pytest.raises(Refused) as caught:
        wait(world.writer.status(key_of(entry.raw()), entry, {}, {"reason": "Starting"}))
    assert caught.value.code == 409
    assert world.client.objects[path]["status"] == {"reason": "Training"}
    assert world.changes == []


def test_the_status_of_another_object_under_the_same_name_is_left_alone(world: World) -> None:
    resource = world.own(training())
    path = object_path("SFTJob", NAMESPACE, "it")
    del world.client.objects[path]
    world.client.put(path, training())
    entry = world.entry(resource)
    with pytest.raises(Refused, match="uid"):
        wait(world.writer.status(key_of(entry.raw()), entry, {}, {"reason": "Starting"}))


def test_a_status_can_lose_fields(world: World) -> None:
    before = {"reason": "Training", "attempts": {"sft": {"attempt": 1}}}
    resource = world.own(training() | {"status": before})
    entry = world.entry(resource)
    wait(world.writer.status(key_of(entry.raw()), entry, before, {"reason": "Rerunning", "attempts": {}}))
    assert world.client.objects[object_path("SFTJob", NAMESPACE, "it")]["status"] == {
        "reason": "Rerunning",
        "attempts": {},
    }


@pytest.mark.parametrize(
    ("before", "after", "patch"),
    [
        ({}, {}, {}),
        ({"a": 1}, {"a": 1}, {}),
        ({"a": 1}, {}, {"a": None}),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1}}, {"a": {"c": None}}),
        ({"a": {"b": 1}}, {"a": 2}, {"a": 2}),
        ({"a": [1, 2]}, {"a": [1]}, {"a": [1]}),
        ({"a": None}, {"a": None, "b": None}, {"b": None}),
    ],
)
def test_the_patch_between_two_values(before: Any, after: Any, patch: Any) -> None:
    assert difference(before, after) == patch


# --- a server


def policy_server(world: World) -> PolicyServer:
    spec = {"model": {"uri": "s3://bucket/m1"}, "storage": STORAGE}
    meta = {"name": "serve", "namespace": NAMESPACE}
    owner = world.own({"apiVersion": "psr.dev/v1alpha1", "kind": "PolicyServer", "metadata": meta, "spec": spec})
    assert isinstance(owner, PolicyServer)
    return owner


def wanted(model: str = "s3://bucket/m1", digest: str | None = "sha256:1", **fields: Any) -> Server:
    values = {"engine": EngineConfig(), "storage": StorageAccess(), "replicas": 1, "port": None, **fields}
    return Server("serve", ModelSource(uri=model), digest, **values)


def served(world: World, owner: PolicyServer, server: Server) -> bool:
    facts = world.store.deployment_of(owner.metadata.uid)
    return wait(world.writer.server(owner, server, facts))


def test_a_server_is_five_objects_and_its_deployment_comes_last(world: World) -> None:
    owner = policy_server(world)
    assert served(world, owner, wanted())
    kinds = [request.body["kind"] for request in world.client.requests]
    assert kinds == ["Secret", "ConfigMap", "Service", "PodDisruptionBudget", "Deployment"]
    assert world.store.deployment_of(owner.metadata.uid) is not None


def test_a_server_as_it_is_wanted_costs_no_request(world: World) -> None:
    owner = policy_server(world)
    served(world, owner, wanted())
    count = len(world.client.requests)
    assert not served(world, owner, wanted())
    assert len(world.client.requests) == count


def test_another_model_touches_no_pod_template(world: World) -> None:
    owner = policy_server(world)
    served(world, owner, wanted())
    before = world.client.objects[DEPLOYMENT]
    count = len(world.client.writes())
    assert not served(world, owner, wanted("s3://bucket/m2", "sha256:2"))
    config = object_path("ConfigMap", NAMESPACE, "serve-serve")
    assert world.client.writes()[count:] == [f"PUT {config}", f"PUT {DEPLOYMENT}"]
    after = world.client.objects[DEPLOYMENT]
    assert after["spec"] == before["spec"]
    assert after["metadata"]["annotations"] != before["metadata"]["annotations"]
    assert "s3://bucket/m2" in world.client.objects[config]["data"]["serve.json"]


def test_a_model_without_a_digest_gets_pods_of_its_own(world: World) -> None:
    owner = policy_server(world)
    served(world, owner, wanted(digest=None))
    before = world.client.objects[DEPLOYMENT]["spec"]["template"]["metadata"]["annotations"]
    served(world, owner, wanted("s3://bucket/m2", digest=None))
    after = world.client.objects[DEPLOYMENT]["spec"]["template"]["metadata"]["annotations"]
    assert before[ANNOTATION_MODEL_HASH] != after[ANNOTATION_MODEL_HASH]


def test_a_server_that_is_wanted_otherwise_is_replaced_as_a_whole(world: World) -> None:
    owner = policy_server(world)
    served(world, owner, wanted())
    live = world.client.objects[DEPLOYMENT]
    assert not served(world, owner, wanted(placement=Placement(resources=Resources(cpu="2"))))
    (put,) = [item.body for item in world.client.requests if (item.verb, item.path) == ("PUT", DEPLOYMENT)]
    assert put["metadata"]["resourceVersion"] == live["metadata"]["resourceVersion"]
    assert put["spec"]["template"]["spec"]["containers"][0]["resources"]["requests"]["cpu"] == "2"


def scaled(world: World, replicas: int) -> None:
    """Somebody scales the Deployment, and the watch tells."""
    live = world.client.objects[DEPLOYMENT]
    raw = world.client.put(DEPLOYMENT, {**live, "spec": {**live["spec"], "replicas": replicas}})
    seen(world, raw)


def seen(world: World, raw: dict[str, Any]) -> None:
    facts = deployment_facts(raw)
    assert facts is not None
    world.store.deployments.put(facts)


def test_a_server_that_somebody_scales_is_put_right(world: World) -> None:
    owner = policy_server(world)
    served(world, owner, wanted())
    before = world.client.objects[DEPLOYMENT]["spec"]
    for replicas in (3, 0):
        scaled(world, replicas)
        served(world, owner, wanted())
        assert world.client.objects[DEPLOYMENT]["spec"] == before


def test_a_deployment_that_somebody_changes_is_written_anew_once(world: World) -> None:
    owner = policy_server(world)
    served(world, owner, wanted())
    before = world.client.objects[DEPLOYMENT]["spec"]
    edited = copy.deepcopy(world.client.objects[DEPLOYMENT])
    edited["spec"]["template"]["spec"]["containers"][0]["image"] = "their/image"
    fields = {"f:spec": {"f:template": {"f:spec": {"f:containers": {'k:{"name":"server"}': {"f:image": {}}}}}}}
    ours = {"manager": "psr-operator", "fieldsV1": {"f:spec": {"f:template": {"f:spec": {"f:volumes": {}}}}}}
    edited["metadata"]["managedFields"] = [ours, {"manager": "kubectl-edit", "fieldsV1": fields}]
    seen(world, world.client.put(DEPLOYMENT, edited))
    served(world, owner, wanted())
    assert world.client.objects[DEPLOYMENT]["spec"] == before
    raw = copy.deepcopy(world.client.objects[DEPLOYMENT])
    raw["metadata"]["managedFields"] = edited["metadata"]["managedFields"]  # what they share with us stays theirs too
    raw["metadata"]["resourceVersion"] = "99"
    seen(world, raw)
    count = len(world.client.writes())
    served(world, owner, wanted())
    assert len(world.client.writes()) == count


def test_a_deployment_that_a_backup_has_restored_is_not_changed_by_it(world: World) -> None:
    owner = policy_server(world)
    served(world, owner, wanted())
    raw = copy.deepcopy(world.client.objects[DEPLOYMENT])
    fields = {"f:spec": {"f:replicas": {}, "f:template": {"f:spec": {"f:containers": {}}}}}
    raw["metadata"] |= {"resourceVersion": "99", "managedFields": [{"manager": "velero", "fieldsV1": fields}]}
    seen(world, raw)
    count = len(world.client.requests)
    served(world, owner, wanted())
    assert len(world.client.requests) == count


def test_a_restart_of_a_server_s_pods_is_nobody_s_business(world: World) -> None:
    owner = policy_server(world)
    served(world, owner, wanted())
    raw = copy.deepcopy(world.client.objects[DEPLOYMENT])
    annotation = {"f:annotations": {"f:kubectl.kubernetes.io/restartedAt": {}}}
    fields = {"f:spec": {"f:template": {"f:metadata": annotation}}}
    ours = {"manager": "psr-operator", "fieldsV1": {"f:spec": {"f:template": {"f:spec": {"f:volumes": {}}}}}}
    theirs = {"manager": "kubectl", "fieldsV1": fields}
    raw["metadata"] |= {"resourceVersion": "99", "managedFields": [ours, theirs]}
    seen(world, raw)
    count = len(world.client.requests)
    served(world, owner, wanted())
    assert len(world.client.requests) == count


def restored(world: World, owner: PolicyServer, key: str | None) -> list[str]:
    facts = world.store.deployment_of(owner.metadata.uid)
    assert facts is not None
    return sorted(wait(world.writer.restore(owner, wanted(), facts, key)))


def test_what_belongs_to_a_server_and_was_removed_comes_back(world: World) -> None:
    owner = policy_server(world)
    served(world, owner, wanted())
    before = dict(world.client.objects)
    removed = {
        "ConfigMap/serve-serve": object_path("ConfigMap", NAMESPACE, "serve-serve"),
        "PodDisruptionBudget/serve": object_path("PodDisruptionBudget", NAMESPACE, "serve"),
        "Secret/serve-key": object_path("Secret", NAMESPACE, "serve-key"),
        "Service/serve": object_path("Service", NAMESPACE, "serve"),
    }
    assert restored(world, owner, None) == []
    for path in removed.values():
        del world.client.objects[path]
    key = base64.b64decode(before[removed["Secret/serve-key"]]["data"]["key"]).decode()
    assert restored(world, owner, key) == sorted(removed)
    for path in removed.values():
        assert {**world.client.objects[path], "metadata": None} == {**before[path], "metadata": None}
    assert world.client.objects[DEPLOYMENT] == before[DEPLOYMENT], "the pods have this key already"


def test_pods_whose_key_is_lost_are_made_anew_with_another(world: World) -> None:
    owner = policy_server(world)
    served(world, owner, wanted())
    before = world.client.objects[DEPLOYMENT]["spec"]["template"]
    del world.client.objects[object_path("Secret", NAMESPACE, "serve-key")]
    assert restored(world, owner, None) == ["Secret/serve-key"]
    after = world.client.objects[DEPLOYMENT]["spec"]["template"]
    assert after["metadata"]["annotations"]["psr.dev/key-hash"]
    assert after["spec"] == before["spec"]


def test_a_job_that_lost_its_owner_is_named_and_nothing_starts_beside_it(world: World) -> None:
    owner = world.own(training())
    (body,) = BACKEND.objects(workload(), owner, SETTINGS)
    del body["metadata"]["ownerReferences"]
    raw = world.client.put(f"{JOBS}/it-a1", body)
    with pytest.raises(Obstacle, match="lost its owner reference"):  # not known yet
        wait(world.writer.workload(owner, workload()))
    facts = BACKEND.facts(raw)
    assert facts is not None
    world.store.workloads.put(facts)
    with pytest.raises(Obstacle, match=r"Job/it-a1 .* delete it"):
        wait(world.writer.workload(owner, workload("it-a2")))
    assert f"{JOBS}/it-a2" not in world.client.objects


def test_a_newer_operator_keeps_the_image_of_pods_that_run(world: World) -> None:
    owner = policy_server(world)
    served(world, owner, wanted())
    client: Any = world.client
    newer = Writer(client, world.store, Settings("runtime:2", "inference:2"), world._changed)
    wait(newer.server(owner, wanted(replicas=2), world.store.deployment_of(owner.metadata.uid)))
    (container,) = world.client.objects[DEPLOYMENT]["spec"]["template"]["spec"]["containers"]
    assert container["image"] == SETTINGS.inference_image


def test_an_object_of_a_server_that_somebody_removed_comes_again(world: World) -> None:
    owner = policy_server(world)
    served(world, owner, wanted())
    service = object_path("Service", NAMESPACE, "serve")
    del world.client.objects[service]
    served(world, owner, wanted(replicas=2))
    assert service in world.client.objects


def test_an_object_of_a_server_may_be_somebody_else_s(world: World) -> None:
    owner = policy_server(world)
    service = object_path("Service", NAMESPACE, "serve")
    other = world.client.put(service, {"metadata": {"name": "serve"}, "spec": {"clusterIP": "10.0.0.7"}})
    with pytest.raises(Obstacle, match="Service/serve exists") as caught:
        served(world, owner, wanted())
    assert caught.value.reason is Reason.NAME_COLLISION
    assert world.client.objects[service] == other
    assert DEPLOYMENT not in world.client.objects


def test_a_deployment_that_changed_hands_is_not_replaced(world: World) -> None:
    owner = policy_server(world)
    served(world, owner, wanted())
    live = world.client.objects[DEPLOYMENT]
    other = world.client.put(DEPLOYMENT, live | {"metadata": {**live["metadata"], "ownerReferences": []}})
    with pytest.raises(Obstacle, match="Deployment/serve exists"):
        served(world, owner, wanted(replicas=2))
    assert world.client.objects[DEPLOYMENT] == other


def test_a_released_server_has_no_pods_and_is_there_again_when_wanted(world: World) -> None:
    owner = policy_server(world)
    served(world, owner, wanted())
    facts = world.store.deployment_of(owner.metadata.uid)
    assert facts is not None
    wait(world.writer.release(owner, facts))
    assert world.client.objects[DEPLOYMENT]["spec"]["replicas"] == 0
    released = world.store.deployment_of(owner.metadata.uid)
    assert released is not None
    assert released.replicas == 0
    count = len(world.client.requests)
    wait(world.writer.release(owner, released))
    assert len(world.client.requests) == count, "once is enough"
    served(world, owner, wanted())
    assert world.client.objects[DEPLOYMENT]["spec"]["replicas"] == 1


def test_somebody_else_s_deployment_is_not_released(world: World) -> None:
    owner = policy_server(world)
    served(world, owner, wanted())
    live = world.client.objects[DEPLOYMENT]
    facts = deployment_facts(live)
    assert facts is not None
    world.client.put(DEPLOYMENT, live | {"metadata": {**live["metadata"], "ownerReferences": []}})
    wait(world.writer.release(owner, facts))
    assert world.client.objects[DEPLOYMENT]["spec"]["replicas"] == 1


def test_a_change_between_reading_and_writing_is_not_overwritten(world: World) -> None:
    owner = policy_server(world)
    served(world, owner, wanted())

    def between(request: Request) -> None:
        if request.verb == "PUT" and request.path == DEPLOYMENT:
            world.client.put(DEPLOYMENT, world.client.objects[DEPLOYMENT])

    world.client.before = between
    with pytest.raises(Refused) as caught:
        served(world, owner, wanted(replicas=2))
    assert caught.value.code == 409


# --- obstacles and events


def obstacle(world: World) -> Obstacle:
    owner = world.own(training())
    world.client.before = refuse(403, "Forbidden", verb="POST", part="jobs", times=1)
    with pytest.raises(Obstacle) as caught:
        wait(world.writer.workload(owner, workload()))
    return caught.value


def test_whether_an_obstacle_still_stands_is_asked_without_making_anything(world: World) -> None:
    refused = obstacle(world)
    assert not wait(world.writer.still_refused(refused))
    assert world.client.writes()[-1] == f"POST {JOBS}?dryRun=All"
    assert f"{JOBS}/it-a1" not in world.client.objects


@pytest.mark.parametrize(
    ("code", "reason", "stands"), [(403, "", True), (503, "", False), (409, "AlreadyExists", True)]
)
def test_what_such_an_answer_means(world: World, code: int, reason: str, stands: bool) -> None:
    refused = obstacle(world)
    world.client.before = refuse(code, reason, verb="POST", part="dryRun")
    assert wait(world.writer.still_refused(refused)) is stands


def test_what_was_never_sent_is_tried_again(world: World) -> None:
    assert not wait(world.writer.still_refused(Obstacle(Reason.VOLUME_MISSING, "no volume")))
    assert world.client.requests == []


def test_an_event_names_the_object(world: World) -> None:
    resource = world.own(training())
    now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    transition = Transition("SFTJob", "it", True, Reason.DATA_ERROR, "line 3 " + "x" * 2000)
    wait(world.writer.event(resource, transition, now))
    (request,) = world.client.requests
    assert request.path == "/api/v1/namespaces/team/events"
    body = request.body
    assert (body["type"], body["reason"], body["firstTimestamp"]) == ("Warning", "DataError", "2026-01-02T03:04:05Z")
    assert body["involvedObject"]["uid"] == resource.metadata.uid
    assert len(body["message"]) == 1000
