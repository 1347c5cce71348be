"""What is kept of thousands of objects: little of each, and what was asked for."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from psr_operator.api import GROUP, VERSION, StepDPOJob
from psr_operator.backends.job import BACKEND
from psr_operator.controller.packed import SAMPLE_BYTES, Packer
from psr_operator.controller.store import Store, key_of
from psr_operator.render import LABEL_KIND, LABEL_NAME, LABEL_UID, LABEL_WORKLOAD


def training(number: int, version: int = 1, **status: Any) -> dict[str, Any]:
    """A StepDPOJob as the apiserver gives it."""
    meta = {"name": f"round-{number}-dpo", "namespace": "team", "uid": str(uuid4()), "resourceVersion": str(version)}
    where = f"s3://bucket/runs/team/round-{number}"
    spec = {
        "model": {"uri": "s3://bucket/models/m1"},
        "pairs": f"{where}/pairs",
        "output": f"{where}/checkpoint",
        "storage": {"uri": "s3://bucket/runs"},
    }
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "StepDPOJob",
        "metadata": {**meta, "generation": 1, "managedFields": [{"manager": "kubectl", "operation": "Apply"}] * 9},
        "spec": spec,
        "status": status,
    }


def raw_job(owner: str, uid: str = "j1", version: int = 1) -> dict[str, Any]:
    """A Job whose labels name the object of this uid as its owner."""
    labels = {LABEL_UID: owner, LABEL_KIND: "StepDPOJob", LABEL_NAME: "round-1-dpo", LABEL_WORKLOAD: "round-1-dpo-a1"}
    meta = {"name": "round-1-dpo-a1", "namespace": "team", "uid": uid, "resourceVersion": str(version)}
    return {"metadata": {**meta, "labels": labels}, "spec": {}}


# --- our objects


def test_an_object_comes_back_as_it_was_without_what_nobody_reads() -> None:
    store, raw = Store(), training(1, reason="Training", step="Training")
    store.put(raw)
    entry = store.get(key_of(raw))
    assert entry is not None
    del raw["metadata"]["managedFields"]
    assert entry.raw() == raw
    assert isinstance(store.resource(key_of(raw)), StepDPOJob)


def test_next_to_others_of_its_kind_an_object_takes_a_few_hundred_bytes() -> None:
    """2,000 rounds are 6,000 objects: at a kilobyte each they would take more than all the rest of the store."""
    packer = Packer()
    packed = [packer.pack("StepDPOJob", training(number, reason="Succeeded")) for number in range(1000)]
    assert [item.raw()["metadata"]["name"] for item in packed] == [f"round-{number}-dpo" for number in range(1000)]
    assert sum(len(item.data) for item in packed[1:]) / 999 < 200
    assert len({item.sample for item in packed}) <= 2


def test_samples_are_few_and_short_however_objects_grow() -> None:
    packer = Packer()
    packed = [packer.pack("StepDPOJob", training(1, message="x" * 40 * number)) for number in range(1000)]
    assert packed[-1].raw()["status"]["message"] == "x" * 40 * 999
    assert max(len(item.sample) for item in packed) <= SAMPLE_BYTES
    assert len({item.sample for item in packed}) < 20


def test_an_older_version_changes_nothing() -> None:
    store, raw = Store(), training(1, version=7, reason="Training")
    assert store.put(raw) is not None
    older = {**raw, "metadata": {**raw["metadata"], "resourceVersion": "6"}, "status": {}}
    assert store.put(older) is None
    entry = store.get(key_of(raw))
    assert entry is not None
    assert entry.raw()["status"] == {"reason": "Training"}


# --- what they own


def test_a_job_belongs_to_the_object_that_its_newest_version_names() -> None:
    """Labels can be changed by hand: it must not stay with both."""
    jobs = Store().workloads
    for raw in (raw_job("a"), raw_job("a", "j2"), raw_job("b", version=2)):
        facts = BACKEND.facts(raw)
        assert facts is not None
        jobs.put(facts)
    assert [item.uid for item in jobs.of("a")] == ["j2"]
    assert [item.uid for item in jobs.of("b")] == ["j1"]
    jobs.drop("j1")
    assert jobs.of("b") == []
