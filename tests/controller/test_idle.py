"""What the operator writes when nothing happens, and when one round of self-rewarding does: the audit log tells.

Idle means no write but to its Lease, with hundreds of finished objects and through comparisons with lists of them all.

One undisturbed SelfRewardIteration with `server.ref`, two search shards and every stage long enough to be seen at work
takes 17 to 20 writes from its creation to Ready: 5 to 7 statuses of the generation and 3 or 4 of the training (what is
passed within a second is not written), 3 of the iteration, 3 Jobs, 2 children, 1 event. `test_writes_of_an_iteration`
prints them (`-s`) and holds them below BOUND.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from harness.control_plane.client import Client
from harness.control_plane.plane import APIError, ControlPlane
from harness.control_plane.player import Outcome, Player, play
from harness.control_plane.pod_ports import digest_of
from harness.operator_process import Account, Operator, grant, start_operator
from psr_operator.api import KINDS
from tests.controller.kstatus import kubectl_wait

Object = dict[str, Any]
API = "/apis/psr.dev/v1alpha1/namespaces/{}"
SAMPLE = "dpo-sample"
FINISHED = 500
IDLE_SECONDS = 60.0
RESYNC_SECONDS = 20.0
SECONDS = 120.0
WRITES = ("create", "update", "patch", "delete", "deletecollection")
BOUND = 22
"""20 where every state of both children is written, and two more."""


class Place:
    """A namespace with a player, and an account for operators in it."""

    def __init__(self, plane: ControlPlane, namespace: str, player: Player, account: Account) -> None:
        self.plane, self.namespace, self.player, self.account = plane, namespace, player, account
        self.path = API.format(namespace)

    def make(self, kind: str, name: str, spec: Object) -> None:
        body = {"apiVersion": "psr.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}
        self.plane.request("POST", f"{self.path}/{kind.lower()}s", body)

    def ready(self, kind: str, name: str) -> Object:
        """Wait until an object is Ready; the object."""
        return self._until(kind, name, lambda status: kubectl_wait({"metadata": {}, "status": status}), "Ready")

    def says(self, kind: str, name: str, reason: str) -> None:
        """Wait until an object stands with this reason."""
        self._until(kind, name, lambda status: status.get("reason") == reason, reason)

    def _until(self, kind: str, name: str, stands: Callable[[Object], bool], how: str) -> Object:
        path = f"{self.path}/{kind.lower()}s"

        def seen() -> list[Object]:
            items = self.plane.request("GET", f"{path}?fieldSelector=metadata.name={name}")["items"]
            return [item for item in items if stands(item["status"])]

        objects: list[Object] = self.player.until(seen, f"{kind}/{name} is {how}", SECONDS)
        return objects[0]

    def versions(self) -> dict[str, str]:
        """resourceVersion of every object of ours, of every Job and Deployment, and of every event."""
        paths = [f"{self.path}/{kind.plural}" for kind in KINDS.values()]
        paths += [f"/apis/batch/v1/namespaces/{self.namespace}/jobs"]
        paths += [f"/apis/apps/v1/namespaces/{self.namespace}/deployments"]
        paths += [f"/api/v1/namespaces/{self.namespace}/events"]
        return {
            f"{path}/{item['metadata']['name']}": item["metadata"]["resourceVersion"]
            for path in paths
            for item in self.plane.request("GET", path)["items"]
        }

    def requests(self, since: datetime) -> list[Object]:
        """The operator's requests from then on, as the audit log tells of them."""
        assert self.plane.audit is not None
        events = [json.loads(line) for line in self.plane.audit.read_bytes().splitlines()]
        return [
            item
            for item in events
            if item["user"]["username"] == self.account.user
            and datetime.fromisoformat(item["requestReceivedTimestamp"]) > since
        ]


@pytest.fixture
def place(crds: ControlPlane, namespace: str) -> Iterator[Place]:
    if crds.audit is None:
        pytest.skip("this cluster's audit log cannot be read")
    with play(crds, namespaces=[namespace]) as player:
        default = f"/api/v1/namespaces/{namespace}/serviceaccounts/default"
        player.until(lambda: _there(crds, default), default)
        yield Place(crds, namespace, player, grant(crds, [namespace]))
        assert player.errors == []


def test_nothing_is_written_while_nothing_happens(place: Place, tmp_path: Path) -> None:
    with start_operator(place.account, tmp_path, namespaces=[place.namespace]):
        place.make("StepDPOJob", SAMPLE, {**COMMON, "pairs": "s3://bucket/pairs"})
        place.make("SelfRewardRun", "tiny", RUN)
        sample = place.ready("StepDPOJob", SAMPLE)
        place.ready("SelfRewardRun", "tiny")
    asyncio.run(copy(place, sample, FINISHED - 1))
    before = place.versions()
    count = sum("/psr.dev/" in name for name in before)
    assert count > FINISHED
    begun = datetime.now(UTC)
    with start_operator(
        place.account,
        tmp_path,
        namespaces=[place.namespace],
        lease_seconds=30.0,
        poll_seconds=10.0,
        resync_seconds=RESYNC_SECONDS,
    ) as operator:
        place.player.until(lambda: has_looked_at(operator, count), "a look at every object", SECONDS)
        place.player.until(lambda: has_begun_to_watch(place, begun), "watches of every kind", SECONDS)
        since = datetime.now(UTC)
        time.sleep(IDLE_SECONDS)
        requests = place.requests(since)
        said = operator.said()
    assert Counter(map(what, requests)).keys() <= IDLE_REQUESTS, said
    assert {what(item) for item in requests if item["verb"] in WRITES} == {"update leases"}
    lists = Counter(what(item) for item in requests if item["verb"] == "list")
    assert lists["list stepdpojobs"] >= 2 * IDLE_SECONDS / RESYNC_SECONDS - 2, f"no resync in this minute: {lists}"
    assert place.versions() == before


def test_writes_of_an_iteration(place: Place, tmp_path: Path) -> None:
    place.player.script = lambda pod: Outcome(hold=True)
    with start_operator(place.account, tmp_path, namespaces=[place.namespace]):
        place.make("PolicyServer", "shared", {"model": COMMON["model"]})
        place.ready("PolicyServer", "shared")
        since = datetime.now(UTC)
        place.make("SelfRewardIteration", "round", ROUND)
        for workload, (kind, name, doing) in WORKLOADS.items():
            place.says(kind, name, doing)
            place.player.release(workload)
        place.ready("SelfRewardIteration", "round")
        place.player.until(lambda: "round" in succeeded(place), "the last event", SECONDS)
    requests = place.requests(since)
    writes = Counter(what(item) for item in requests if item["verb"] in WRITES)
    writes.pop("update leases", None)
    print(f"\n{writes.total()} writes for an iteration")
    for name, count in sorted(writes.items()):
        print(f"  {count:>3} {name}")
    assert writes.total() <= BOUND, writes
    assert all(item["responseStatus"]["code"] < 400 for item in requests if item["verb"] in WRITES)


# --- what there is -----------------------------------------------------------------------------------------

COMMON: Object = {"model": {"uri": "s3://bucket/m1"}, "storage": {"uri": "s3://bucket/runs"}}
ROUND: Object = {
    **COMMON,
    "problems": "s3://bucket/problems.jsonl",
    "questions": {"count": 4},
    "searchShards": 2,
    "server": {"ref": "shared"},
}
RUN: Object = {
    **COMMON,
    "problems": "s3://bucket/problems.jsonl",
    "sft": {"ift": "s3://bucket/ift.jsonl"},
    "iterations": [{"questions": 4}],
    "evaluations": [{"name": "fresh", "problems": "s3://bucket/test.jsonl"}],
    "trainingResources": {"gpus": 1},
    "server": {"resources": {"gpus": 1}},
}
WORKLOADS = {
    "round-pairs-search-a1": ("PreferenceGeneration", "round-pairs", "Searching"),
    "round-pairs-merge-a1": ("PreferenceGeneration", "round-pairs", "Merging"),
    "round-dpo-a1": ("StepDPOJob", "round-dpo", "Training"),
}
"""What says so while each is at work."""
WATCHED = (*(kind.plural for kind in KINDS.values()), "jobs", "deployments", "pods")
IDLE_REQUESTS = {
    "get leases",
    "update leases",
    *(f"{verb} {kinds}" for kinds in WATCHED for verb in ("list", "watch")),
}
"""All that an idle operator asks for: its Lease, and now and then everything."""


async def copy(place: Place, sample: Object, count: int) -> None:
    """Make objects that are as finished as the sample is: with the status that the operator wrote, about themselves."""
    collection = f"{place.path}/stepdpojobs"

    async def one(client: Client, name: str) -> None:
        text = json.dumps({"spec": sample["spec"], "status": sample["status"]}).replace(SAMPLE, name)
        item = json.loads(text.replace(sample["status"]["digest"], digest_of(json.loads(text)["status"]["output"])))
        body = {"apiVersion": sample["apiVersion"], "kind": sample["kind"], "metadata": {"name": name}}
        await client.request("POST", collection, {**body, "spec": item["spec"]})
        await client.merge(f"{collection}/{name}/status", {"status": item["status"]})

    async with Client(place.plane, connections=8) as client:
        await asyncio.gather(*(one(client, f"dpo-{number}") for number in range(count)))
    await asyncio.sleep(0.25)  # TLS connections need a few turns of the loop to close


def has_looked_at(operator: Operator, count: int) -> bool:
    """Whether the operator has looked at so many objects, and there is none left to be looked at."""
    figures = operator.metrics()
    looked, left = (
        float(re.findall(rf"(?m)^{name} (\S+)$", figures)[0])
        for name in ("psr_reconcile_seconds_count", "psr_queue_length")
    )
    return looked >= count and left == 0


def has_begun_to_watch(place: Place, since: datetime) -> bool:
    """Whether every kind was listed twice: before there are watches, and at their begin."""
    lists = Counter(what(item) for item in place.requests(since) if item["verb"] == "list")
    return all(lists[f"list {kinds}"] >= 2 for kinds in WATCHED)


def what(request: Object) -> str:
    """Verb and resource of a request."""
    target = request.get("objectRef")
    if target is None:
        return f"{request['verb']} {request['requestURI']}"
    return f"{request['verb']} {'/'.join(filter(None, (target['resource'], target.get('subresource'))))}"


def succeeded(place: Place) -> set[str]:
    """Names of the objects that an event calls done."""
    events = place.plane.request("GET", f"/api/v1/namespaces/{place.namespace}/events")["items"]
    return {item["involvedObject"]["name"] for item in events if item["reason"] == "Succeeded"}


def _there(plane: ControlPlane, path: str) -> bool:
    try:
        return bool(plane.request("GET", path))
    except APIError:
        return False
