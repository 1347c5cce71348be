"""Objects as an apiserver keeps them: read as models, and written so that the apiserver keeps what was meant."""

from __future__ import annotations

import copy

import pytest
from pydantic import ValidationError

from harness.control_plane.plane import ControlPlane
from psr_operator.api import Meta, OwnerReference, StepDPOJob
from psr_operator.api.stored import LAST_APPLIED, parse, to_stored
from tests.api.definitions import manifest, url

RAW = {
    "apiVersion": "psr.dev/v1alpha1",
    "kind": "StepDPOJob",
    "metadata": {
        "name": "train",
        "namespace": "team",
        "uid": "4f3c",
        "generation": 3,
        "resourceVersion": "12",
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "managedFields": [{"manager": "kubectl"}],
        "finalizers": ["foregroundDeletion"],
        "labels": {"kueue.x-k8s.io/queue-name": "gpus"},
        "annotations": {LAST_APPLIED: "{}", "team.example/note": "kept", "team.example/log": "x" * 2000},
        "ownerReferences": [
            {
                "apiVersion": "psr.dev/v1alpha1",
                "kind": "SelfRewardIteration",
                "name": "round",
                "uid": "77",
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ],
    },
    "spec": manifest("StepDPOJob")["spec"],
    "status": {"observedGeneration": 2, "reason": "Running"},
}


def test_of_the_metadata_only_what_psr_reads_is_read() -> None:
    assert parse(RAW).metadata == Meta(
        name="train",
        namespace="team",
        uid="4f3c",
        generation=3,
        labels={"kueue.x-k8s.io/queue-name": "gpus"},
        annotations={"team.example/note": "kept"},
        owner_references=[OwnerReference(kind="SelfRewardIteration", name="round", uid="77")],
    )
    assert (parse(RAW).status.observed_generation, parse(RAW).status.reason) == (2, "Running")


def test_a_new_object_has_no_status_yet() -> None:
    fresh = {key: value for key, value in RAW.items() if key != "status"}
    assert parse(fresh).status.observed_generation == -1


@pytest.mark.parametrize(
    "spec", [{}, {**RAW["spec"], "retries": {"backoffLimit": "many"}}, {**RAW["spec"], "seed": -1}]
)
def test_a_wrong_spec_is_an_error(spec: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        parse({**RAW, "spec": spec})


def test_an_applied_child_is_stored_as_it_was_meant(crds: ControlPlane, namespace: str) -> None:
    """Its parent is its controller, and what comes back is the same object."""
    parent = crds.request("POST", url("SFTJob", namespace=namespace), manifest("SFTJob", name="parent"))
    owner = OwnerReference(kind="SFTJob", name="parent", uid=parent["metadata"]["uid"])
    meta = Meta(name="child", namespace=namespace, labels={"a": "b"}, owner_references=[owner])
    child = StepDPOJob(metadata=meta, spec=manifest("StepDPOJob")["spec"])
    stored = crds.request("POST", url("StepDPOJob", namespace=namespace) + "?fieldValidation=Strict", to_stored(child))
    assert stored["metadata"]["ownerReferences"] == [
        {
            "apiVersion": "psr.dev/v1alpha1",
            "kind": "SFTJob",
            "name": "parent",
            "uid": parent["metadata"]["uid"],
            "controller": True,
        }
    ]
    back = parse(stored)
    assert (back.spec, back.metadata.labels, back.metadata.owner_references) == (child.spec, {"a": "b"}, [owner])
    assert to_stored(back) == to_stored(child)


def test_fields_that_this_version_does_not_know_are_left_out() -> None:
    """At any depth; what it knows is checked as ever, and what was given stays as it was."""
    raw = {
        **RAW,
        "spec": {**RAW["spec"], "future": "words", "retries": {"backoffLimit": 2, "jitter": 0.1}},  # type: ignore[dict-item]
        "status": {"phase": "Later", "attempts": {"train": {"attempt": 1, "node": "n1"}}},
    }
    before = copy.deepcopy(raw)
    read = parse(raw)
    assert read.spec.retries.backoff_limit == 2
    assert read.status.attempts["train"].attempt == 1
    assert "future" not in read.spec.to_json()
    assert raw == before
    with pytest.raises(ValidationError) as caught:
        parse({**raw, "spec": {**raw["spec"], "seed": "many"}})  # type: ignore[dict-item]
    assert [fault["loc"] for fault in caught.value.errors()] == [("spec", "seed")]
