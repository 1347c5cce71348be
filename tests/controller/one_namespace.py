"""A namespace with an operator and a played node: make objects, change them, wait for what they say."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from harness.control_plane.paths import collection_of
from harness.control_plane.plane import APIError, ControlPlane
from harness.control_plane.player import Outcome, Player, Pod

STORAGE = {"uri": "s3://bucket/runs"}
MODEL = {"uri": "s3://bucket/models/m"}
JOB = {"model": MODEL, "pairs": "s3://bucket/pairs", "storage": STORAGE}
QUICK = {"backoffSeconds": 0}


@dataclass
class Scene:
    """A namespace with an operator and a played node.

    Attributes:
        script: what becomes of this namespace's pods.
    """

    plane: ControlPlane
    player: Player
    namespace: str
    scripts: dict[str, Callable[[Pod], Outcome]]
    said: Callable[[], str] = field(default=lambda: "")

    def play(self, script: Callable[[Pod], Outcome]) -> None:
        self.scripts[self.namespace] = script

    def make(self, kind: str, name: str = "it", meta: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
        body = {
            "apiVersion": "psr.dev/v1alpha1",
            "kind": kind,
            "metadata": {"name": name, **(meta or {})},
            "spec": spec,
        }
        item: dict[str, Any] = self.plane.request("POST", self.path(kind), body)
        return item

    def path(self, kind: str, name: str | None = None) -> str:
        collection = collection_of(kind, self.namespace)
        return f"{collection}/{name}" if name else collection

    def get(self, kind: str, name: str = "it") -> dict[str, Any] | None:
        try:
            item: dict[str, Any] = self.plane.request("GET", self.path(kind, name))
        except APIError as error:
            if error.code == 404:
                return None
            raise
        return item

    def names(self, kind: str) -> list[str]:
        return sorted(item["metadata"]["name"] for item in self.plane.request("GET", self.path(kind))["items"])

    def change(self, kind: str, name: str = "it", **spec: Any) -> None:
        """Change fields of a spec; None unsets."""
        body = {"spec": spec}
        self.plane.request("PATCH", self.path(kind, name), body, content="application/merge-patch+json")

    def until(self, kind: str, reason: str, name: str = "it", seconds: float = 60.0) -> dict[str, Any]:
        """Wait until an object stands with this reason, for its present generation; the object."""
        deadline = time.monotonic() + seconds
        while True:
            item = self.get(kind, name)
            status = (item or {}).get("status", {})
            if (
                item is not None
                and status.get("reason") == reason
                and status.get("observedGeneration") == item["metadata"]["generation"]
            ):
                return item
            assert time.monotonic() < deadline, (
                f"{kind}/{name} is not {reason}: {json.dumps(status)}\n{self.said()[-3000:]}"
            )
            time.sleep(0.05)


def message(item: dict[str, Any]) -> str:
    return next(item["message"] for item in item["status"]["conditions"] if item["type"] == "Ready")


def pods(scene: Scene) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = scene.plane.request("GET", scene.path("Pod"))["items"]
    return items


def servers(scene: Scene) -> list[dict[str, Any]]:
    return [pod for pod in pods(scene) if "psr.dev/server" in pod["metadata"]["labels"]]


def wait(happened: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)
