"""A real apiserver takes every rendered object, in a namespace that enforces the `restricted` Pod Security level."""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Callable
from typing import Any

import pytest

from harness.control_plane.plane import APIError, ControlPlane
from psr_operator.api import Resource
from psr_operator.render import key_secret
from tests.render.samples import Sample, samples

SAMPLES = samples()
PATHS = {
    "ConfigMap": "/api/v1/namespaces/{}/configmaps",
    "Deployment": "/apis/apps/v1/namespaces/{}/deployments",
    "Job": "/apis/batch/v1/namespaces/{}/jobs",
    "Pod": "/api/v1/namespaces/{}/pods",
    "PodDisruptionBudget": "/apis/policy/v1/namespaces/{}/poddisruptionbudgets",
    "Secret": "/api/v1/namespaces/{}/secrets",
    "Service": "/api/v1/namespaces/{}/services",
}


def create(plane: ControlPlane, namespace: str, item: dict[str, Any]) -> Any:
    """Create an object; a field that the apiserver does not know is an error."""
    return plane.request("POST", PATHS[item["kind"]].format(namespace) + "?fieldValidation=Strict", item)


def rendered(sample: Sample, namespace: str) -> list[dict[str, Any]]:
    owner: Resource = sample.owner
    meta = owner.metadata.model_copy(update={"namespace": namespace})
    return Sample(sample.wanted, owner.model_copy(update={"metadata": meta})).render()


def bare_pods(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A pod of each template, as the Job's or Deployment's controller would make it."""
    templates = [item["spec"]["template"] for item in objects if "template" in item.get("spec", {})]
    return [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {**item["metadata"], "name": f"pod-{index}"},
            "spec": item["spec"],
        }
        for index, item in enumerate(templates)
    ]


@pytest.fixture
def prepared(plane: ControlPlane, namespace: str) -> str:
    """A namespace with what the samples name: service accounts, a PriorityClass, a RuntimeClass."""
    for name in ("psr-storage", "psr-team"):
        plane.request("POST", f"/api/v1/namespaces/{namespace}/serviceaccounts", {"metadata": {"name": name}})
    classes = {
        "/apis/scheduling.k8s.io/v1/priorityclasses": {"metadata": {"name": "psr-batch"}, "value": 10},
        "/apis/node.k8s.io/v1/runtimeclasses": {"metadata": {"name": "nvidia"}, "handler": "nvidia"},
    }
    for path, body in classes.items():
        with contextlib.suppress(APIError):  # an earlier test made it
            plane.request("POST", path, body)
    end = time.monotonic() + 20
    while True:
        with contextlib.suppress(APIError):
            plane.request("GET", f"/api/v1/namespaces/{namespace}/serviceaccounts/default")
            return namespace
        assert time.monotonic() < end, "the namespace has no default service account"
        time.sleep(0.05)


@pytest.mark.parametrize("name", SAMPLES)
def test_everything_is_created(plane: ControlPlane, prepared: str, name: str) -> None:
    objects = rendered(SAMPLES[name], prepared)
    for item in [*objects, *bare_pods(objects)]:
        created = create(plane, prepared, item)
        assert created["metadata"]["uid"]
    assert len(bare_pods(objects)) == 1


def test_the_key_is_created(plane: ControlPlane, prepared: str) -> None:
    owner = SAMPLES["server"].owner
    meta = owner.metadata.model_copy(update={"namespace": prepared})
    create(plane, prepared, key_secret("loop-server", owner.model_copy(update={"metadata": meta}), "a-key"))


def _root(spec: dict[str, Any]) -> None:
    del spec["securityContext"]["runAsNonRoot"]


def _seccomp(spec: dict[str, Any]) -> None:
    del spec["securityContext"]["seccompProfile"]


def _capabilities(spec: dict[str, Any]) -> None:
    del spec["containers"][0]["securityContext"]["capabilities"]


def _escalation(spec: dict[str, Any]) -> None:
    del spec["containers"][0]["securityContext"]["allowPrivilegeEscalation"]


def _host(spec: dict[str, Any]) -> None:
    spec["volumes"].append({"name": "host", "hostPath": {"path": "/"}})


@pytest.mark.parametrize("spoil", [_root, _seccomp, _capabilities, _escalation, _host])
@pytest.mark.parametrize("name", ["search", "server"])
def test_a_broken_template_would_be_refused(
    plane: ControlPlane, prepared: str, name: str, spoil: Callable[[dict[str, Any]], None]
) -> None:
    (pod,) = copy.deepcopy(bare_pods(rendered(SAMPLES[name], prepared)))
    spoil(pod["spec"])
    with pytest.raises(APIError, match='violates PodSecurity "restricted') as caught:
        create(plane, prepared, pod)
    assert caught.value.code == 403
