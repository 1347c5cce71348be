"""A run of the demo in a team's namespace: its state, its pods, and waiting for both."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from harness.control_plane.paths import collection_of
from harness.control_plane.plane import APIError, ControlPlane

T = TypeVar("T")
Object = dict[str, Any]
KINDS_OF_A_RUN = ("Job", "Deployment", "Service", "ConfigMap", "Secret", "PodDisruptionBudget", "Pod")
OURS = "labelSelector=app.kubernetes.io/managed-by%3Dpsr"


@dataclass(frozen=True)
class Run:
    """An object of PSR and what belongs to it.

    Attributes:
        seconds: after which waiting for anything ends.
    """

    cluster: ControlPlane
    namespace: str
    kind: str
    name: str
    seconds: float = 1500.0

    def read(self) -> Object:
        """The object as it is now."""
        stored: Object = self.cluster.request("GET", f"{collection_of(self.kind, self.namespace)}/{self.name}")
        return stored

    def condition(self, kind: str) -> Object | None:
        """A condition of it, or None."""
        conditions = self.read().get("status", {}).get("conditions", [])
        return next((item for item in conditions if item["type"] == kind), None)

    def pods(self, **labels: str) -> list[Object]:
        """Pods of the namespace that PSR made, with these labels of psr.dev."""
        chosen = "".join(f",psr.dev/{key}%3D{value}" for key, value in labels.items())
        path = f"{collection_of('Pod', self.namespace)}?{OURS}{chosen}"
        return sorted(self.cluster.request("GET", path)["items"], key=lambda pod: str(pod["metadata"]["name"]))

    def running(self, **labels: str) -> list[Object]:
        """Those whose containers run and that nobody has told to end."""
        return [
            pod
            for pod in self.pods(**labels)
            if pod["status"].get("phase") == "Running" and "deletionTimestamp" not in pod["metadata"]
        ]

    def kill(self, pod: Object) -> None:
        """End a pod at once, as the loss of its node would."""
        self.cluster.ctl(
            "delete", "pod", pod["metadata"]["name"], "-n", self.namespace, "--grace-period=0", "--force", "--wait=true"
        )

    def until(self, done: Callable[[], T | None], what: str) -> T:
        """Wait for something that is not None or False; a run that is Stalled never gets there."""
        deadline = time.monotonic() + self.seconds
        while True:
            result = done()
            if result:
                return result
            stalled = self.condition("Stalled")
            assert stalled is None or stalled["status"] != "True", f"waited for {what}: {stalled}"
            assert time.monotonic() < deadline, f"waited for {what}: {self.read().get('status')}"
            time.sleep(0.5)

    def until_ready(self) -> Object:
        """Wait until it is Ready; the object."""

        def ready() -> bool:
            condition = self.condition("Ready")
            return condition is not None and condition["status"] == "True"

        self.until(ready, f"{self.kind}/{self.name} to be Ready")
        return self.read()

    def belongings(self) -> list[Object]:
        """Everything of the namespace that PSR made, kinds of its own included."""
        objects: list[Object] = []
        for kind in KINDS_OF_A_RUN:
            items = self.cluster.request("GET", f"{collection_of(kind, self.namespace)}?{OURS}")["items"]
            objects += [{**item, "kind": kind} for item in items]
        for plural in ("selfrewarditerations", "preferencegenerations", "stepdpojobs", "sftjobs", "modelevaluations"):
            path = f"/apis/psr.dev/v1alpha1/namespaces/{self.namespace}/{plural}"
            objects += self.cluster.request("GET", path)["items"]
        path = f"/apis/psr.dev/v1alpha1/namespaces/{self.namespace}/policyservers"
        return objects + list(self.cluster.request("GET", path)["items"])

    def delete(self) -> None:
        """Delete it and wait until everything that it made is gone."""
        self.cluster.request("DELETE", f"{collection_of(self.kind, self.namespace)}/{self.name}")
        deadline = time.monotonic() + 180
        while left := [f"{item['kind']}/{item['metadata']['name']}" for item in self.belongings()]:
            assert time.monotonic() < deadline, f"still there: {', '.join(left)}"
            time.sleep(0.5)


def start(cluster: ControlPlane, namespace: str, manifest: Object) -> Run:
    """Apply a manifest."""
    kind, name = manifest["kind"], manifest["metadata"]["name"]
    path = f"{collection_of(kind, namespace)}/{name}?fieldManager=team&fieldValidation=Strict"
    cluster.request("PATCH", path, manifest, content="application/apply-patch+yaml")
    return Run(cluster, namespace, kind, name)


def restarts(pods: list[Object]) -> dict[str, int]:
    """How often the containers of each pod were started again, by the pod's uid."""
    return {
        pod["metadata"]["uid"]: sum(item["restartCount"] for item in pod["status"].get("containerStatuses", ()))
        for pod in pods
    }


def gone(cluster: ControlPlane, path: str) -> bool:
    """Whether an object is not there."""
    try:
        cluster.request("GET", path)
    except APIError as error:
        if error.code != 404:
            raise
        return True
    return False
