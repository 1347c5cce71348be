"""A run in a namespace of its own, and what it has come to: what the tests with disturbances share."""

from __future__ import annotations

import contextlib
import json
import re
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.control_plane.paths import collection_of
from harness.control_plane.plane import APIError, ControlPlane
from harness.control_plane.player import Outcome, Player, Pod, play, succeed
from psr_operator.api import KINDS

Object = dict[str, Any]
RUN = "loop"
SERVER = f"{RUN}-server"
TRAINING = ("sft", "step-dpo")
SECONDS = 120.0
"""A generous bound for everything that is waited for."""
OTHERS = ("Job", "Deployment", "Service", "ConfigMap", "Secret", "PodDisruptionBudget")
PASSING = frozenset(
    {
        "creationTimestamp", "deletionGracePeriodSeconds", "deletionTimestamp", "generation", "lastTransitionTime",
        "managedFields", "observedGeneration", "resourceVersion",
        "activeSeconds", "pendingSince", "retryAt", "runningSince",
        "deployment.kubernetes.io/revision",
    }
)  # fmt: skip
"""Fields that tell when and how often, not what."""


def run(rounds: int = 1, **more: Any) -> Object:
    """A run whose server and trainings share GPUs. `more`: further fields of its spec."""
    return {
        "apiVersion": "psr.dev/v1alpha1",
        "kind": "SelfRewardRun",
        "metadata": {"name": RUN},
        "spec": {
            "model": {"uri": "s3://bucket/m1"},
            "problems": "s3://bucket/problems.jsonl",
            "storage": {"uri": "s3://bucket/runs"},
            "iterations": [{"questions": 4}] * rounds,
            "evaluations": [{"name": "fresh", "problems": "s3://bucket/test.jsonl"}],
            "searchShards": 2,
            "trainingResources": {"gpus": 1},
            "server": {"resources": {"gpus": 1}},
            "retries": {"backoffSeconds": 0},
            **more,
        },
    }


@dataclass
class Referee:
    """A player's script that watches over GPUs: no pod of training runs beside one of the server.

    Attributes:
        script: what becomes of each pod.
        faults: what was seen against the rule.
    """

    script: Callable[[Pod], Outcome] = succeed
    faults: list[str] = field(default_factory=list)
    player: Player | None = None

    def __call__(self, pod: Pod) -> Outcome:
        trains, serves = pod.stage in TRAINING, not pod.stage
        for pod_life in list(self.player.played.values()) if self.player is not None else ():
            other = pod_life.view
            ended = pod_life.pod.get("status", {}).get("phase") in ("Succeeded", "Failed")
            against = (trains and not other.stage) or (serves and other.stage in TRAINING)
            if against and not ended and other.namespace == pod.namespace:
                self.faults.append(f"{pod.name} started while {other.name} was there")
        return self.script(pod)


@dataclass
class Place:
    """A namespace with a player."""

    plane: ControlPlane
    namespace: str
    player: Player
    referee: Referee

    def path(self, kind: str, name: str = "", part: str = "") -> str:
        return collection_of(kind, self.namespace) + (f"/{name}" if name else "") + (f"/{part}" if part else "")

    def make(self, body: Object) -> Object:
        item: Object = self.plane.request("POST", self.path(body["kind"]), body)
        return item

    def delete(self, kind: str, name: str) -> None:
        self.plane.request("DELETE", self.path(kind, name), {"propagationPolicy": "Background"})

    def get(self, kind: str, name: str) -> Object | None:
        try:
            item: Object = self.plane.request("GET", self.path(kind, name))
        except APIError as error:
            if error.code == 404:
                return None
            raise
        return item

    def all(self, kind: str) -> list[Object]:
        items: list[Object] = self.plane.request("GET", self.path(kind))["items"]
        return [{**item, "kind": kind} for item in items]

    def names(self, kind: str) -> set[str]:
        return {item["metadata"]["name"] for item in self.all(kind)}

    def ready(self, kind: str = "SelfRewardRun", name: str = RUN) -> Object | None:
        """The Ready condition of an object."""
        item = self.get(kind, name)
        conditions = (item or {}).get("status", {}).get("conditions", ())
        return next((item for item in conditions if item["type"] == "Ready"), None)

    def until(self, happened: Callable[[], Any], what: str, seconds: float = SECONDS) -> Any:
        """Wait for something; what it returned once that is true."""
        deadline = time.monotonic() + seconds
        while True:
            value = happened()
            if value:
                return value
            assert time.monotonic() < deadline, f"{what}: not in {seconds:.0f} s\n{self.summary()}"
            time.sleep(0.05)

    def until_reason(self, reason: str, kind: str = "SelfRewardRun", name: str = RUN) -> Object:
        """Wait for the reason of an object's Ready condition; that condition."""

        def stands() -> Object | None:
            ready = self.ready(kind, name)
            return ready if ready is not None and ready["reason"] == reason else None

        condition: Object = self.until(stands, f"{kind}/{name} {reason}")
        return condition

    def until_done(self) -> None:
        """Wait until the run is Ready and its server has let its GPUs go."""
        self.until_reason("Succeeded")
        self.until_reason("Idle", "PolicyServer", SERVER)

    def until_state(self, expected: Object) -> None:
        """Wait until the run is Ready and everything is as in another run."""
        self.until_done()
        deadline = time.monotonic() + 10
        while different := differences(expected, self.state()):
            assert time.monotonic() < deadline, "\n".join(different[:40])
            time.sleep(0.2)

    def summary(self) -> str:
        """How everything stands, for a message."""
        lines = []
        for kind in KINDS:
            for item in self.all(kind):
                ready = next(iter(item.get("status", {}).get("conditions", ())), {})
                lines.append(f"{kind}/{item['metadata']['name']} {ready.get('reason')}: {ready.get('message')}")
        jobs = [f"{item['metadata']['name']} {_ends(item)}" for item in self.all("Job")]
        return "\n".join([*lines, f"Jobs: {', '.join(jobs)}", f"player: {self.player.errors}"])

    def state(self) -> Object:
        """Everything that the operator has made and said, without times, uids and the namespace."""
        objects: Object = {}
        for kind in KINDS:
            for item in self.all(kind):
                meta = _meta(item["metadata"])
                objects[f"{kind}/{meta['name']}"] = {**meta, "spec": item["spec"], "status": item.get("status")}
        for kind in OTHERS:
            for item in self.all(kind):
                meta = _meta(item["metadata"])
                if not meta["owners"]:
                    continue  # the cluster's own
                objects[f"{kind}/{meta['name']}"] = meta
                if kind in ("Job", "Deployment"):
                    objects[f"{kind}/{meta['name']}"] = {**meta, "spec": item["spec"], "ends": _ends(item)}
        return normal(objects, self.namespace)

    def judge(self) -> None:
        """Nothing went wrong on the player's side, and no GPU was held twice."""
        assert self.player.errors == []
        assert self.referee.faults == []


@contextlib.contextmanager
def place_for(plane: ControlPlane, name: str, script: Callable[[Pod], Outcome] = succeed) -> Iterator[Place]:
    """A namespace and its player, until the block ends."""
    with places_for(plane, [name], script) as (place,):
        yield place


@contextlib.contextmanager
def places_for(
    plane: ControlPlane, names: Sequence[str], script: Callable[[Pod], Outcome] = succeed
) -> Iterator[list[Place]]:
    """Namespaces with one player for them all, until the block ends: the scheduler binds pods to any node."""
    namespaces = [f"{name}-{uuid.uuid4().hex[:6]}" for name in names]
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    for namespace in namespaces:
        plane.request("POST", "/api/v1/namespaces", {"metadata": {"name": namespace, "labels": labels}})
    referee = Referee(script)
    try:
        with play(plane, namespaces=namespaces, script=referee) as player:
            referee.player = player
            yield [Place(plane, namespace, player, referee) for namespace in namespaces]
    finally:
        for namespace in namespaces:
            with contextlib.suppress(APIError, OSError):
                plane.request("DELETE", f"/api/v1/namespaces/{namespace}")


def normal(state: Object, namespace: str) -> Object:
    """JSON values without what differs from run to run: fields of time go, uids and digests are numbered."""
    text = json.dumps(_without(state), sort_keys=True).replace(namespace, "NAMESPACE")
    numbers: dict[str, str] = {}
    pattern = r"sha256:[0-9a-f]{64}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|(?<=\")[0-9a-f]{16}(?=\")"
    text = re.sub(pattern, lambda match: numbers.setdefault(match[0], f"#{len(numbers)}"), text)
    result: Object = json.loads(text)
    return result


def differences(expected: Any, actual: Any, where: str = "") -> list[str]:
    """Where two states differ, a line each."""
    if isinstance(expected, dict) and isinstance(actual, dict):
        keys = sorted(expected.keys() | actual.keys())
        return [line for key in keys for line in differences(expected.get(key), actual.get(key), f"{where}.{key}")]
    if isinstance(expected, list) and isinstance(actual, list) and len(expected) == len(actual):
        return [
            line
            for number, items in enumerate(zip(expected, actual, strict=True))
            for line in differences(*items, f"{where}[{number}]")
        ]
    if expected == actual:
        return []
    return [f"{where}: {str(actual)[:2000]} instead of {str(expected)[:2000]}"]


def _meta(meta: Object) -> Object:
    owners = [f"{item['kind']}/{item['name']}" for item in meta.get("ownerReferences", ())]
    return {"name": meta["name"], "owners": owners, **{key: meta.get(key) for key in ("labels", "annotations")}}


def _ends(item: Object) -> str:
    conditions = item.get("status", {}).get("conditions", ())
    ended = ("Complete", "Failed")
    return " ".join(sorted(one["type"] for one in conditions if one["status"] == "True" and one["type"] in ended))


def _without(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {key: _without(item) for key, item in value.items() if key not in PASSING}
        return {key: item for key, item in kept.items() if item not in ("", None, [], {})}  # as good as absent
    if isinstance(value, list):
        return [_without(item) for item in value]
    return value
