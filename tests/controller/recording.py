"""Every version of every object of a namespace, as a watch tells them, and what must hold at each of them."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from harness.control_plane.client import Client
from harness.control_plane.plane import ControlPlane
from psr_operator.api import GROUP, KINDS, VERSION
from psr_operator.render import LABEL_SERVER
from tests.controller.kstatus import KStatus, compute, conditions_of, expected

Object = dict[str, Any]
START_SECONDS = 30.0
CLOSING_SECONDS = 0.25
"""TLS connections need a few turns of the loop to close."""
COLLECTIONS = {
    **{name: f"/apis/{GROUP}/{VERSION}/namespaces/{{}}/{kind.plural}" for name, kind in KINDS.items()},
    "Job": "/apis/batch/v1/namespaces/{}/jobs",
    "Deployment": "/apis/apps/v1/namespaces/{}/deployments",
    "Pod": "/api/v1/namespaces/{}/pods",
}


@dataclass(frozen=True)
class Version:
    """One version of an object.

    Attributes:
        number: its resourceVersion, which orders the versions of all objects.
        event: ADDED, MODIFIED or DELETED.
    """

    number: int
    event: str
    kind: str
    item: Object

    @property
    def name(self) -> str:
        """Kind/name."""
        return f"{self.kind}/{self.item['metadata']['name']}"


@dataclass
class Recording:
    """What the watches said so far.

    Attributes:
        errors: of the recording itself; tests assert that it is empty.
    """

    plane: ControlPlane
    namespace: str
    errors: list[BaseException] = field(default_factory=list)
    _versions: list[Version] = field(default_factory=list)

    def versions(self, *kinds: str) -> list[Version]:
        """Every version of objects of these kinds (all, where none is given), in the order of storing."""
        versions = [item for item in list(self._versions) if not kinds or item.kind in kinds]
        return sorted(versions, key=lambda item: item.number)

    def ours(self) -> list[Version]:
        """Every version of objects of PSR."""
        return self.versions(*KINDS)

    def last(self, name: str) -> Object | None:
        """The newest version of `Kind/name`; None before it is there and after it has gone."""
        versions = [item for item in self.versions(name.split("/")[0]) if item.name == name]
        return versions[-1].item if versions and versions[-1].event != "DELETED" else None

    def reason(self, name: str) -> str:
        """The reason of `Kind/name`; empty for one that is not there or says nothing yet."""
        item = self.last(name)
        return str(((item or {}).get("status") or {}).get("reason", ""))

    def now(self) -> int:
        """The resourceVersion of now: whatever is stored later has a higher one."""
        path = COLLECTIONS["Job"].format(self.namespace)
        return int(self.plane.request("GET", f"{path}?limit=1")["metadata"]["resourceVersion"])


@contextlib.contextmanager
def record(plane: ControlPlane, namespace: str) -> Iterator[Recording]:
    """Record a namespace until the block ends."""
    recording = Recording(plane, namespace)
    listed = threading.Semaphore(0)
    ended = threading.Event()

    async def follow(client: Client, kind: str, path: str) -> None:
        def tell(event: str, item: Object) -> None:
            number = int(item["metadata"]["resourceVersion"])
            recording._versions.append(Version(number, event, kind, item))

        await client.watch(path.format(namespace), tell, listed.release)

    async def work() -> None:
        async with Client(plane) as client:
            tasks = [asyncio.create_task(follow(client, kind, path)) for kind, path in COLLECTIONS.items()]
            while not ended.is_set() and not any(task.done() for task in tasks):
                await asyncio.sleep(0.05)
            for task in tasks:
                task.cancel()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
            recording.errors += [
                error
                for error in ends
                if isinstance(error, BaseException) and not isinstance(error, asyncio.CancelledError)
            ]
        await asyncio.sleep(CLOSING_SECONDS)

    thread = threading.Thread(target=lambda: asyncio.run(work()), name=f"recording-{namespace}", daemon=True)
    thread.start()
    try:
        for _ in COLLECTIONS:
            assert listed.acquire(timeout=START_SECONDS), f"a watch did not start; {recording.errors}"
        yield recording
    finally:
        ended.set()
        thread.join(START_SECONDS)


# --- what must hold ----------------------------------------------------------------------------------------


def check_statuses(recording: Recording) -> None:
    """At every version: a row of the table, what kstatus must make of it, and generations that are not ahead."""
    for version in recording.ours():
        item, status = version.item, version.item["status"]
        where = f"{version.name} at {version.number}: {status}"
        assert compute(item) is expected(item), where
        if compute(item) is KStatus.CURRENT:
            assert conditions_of(item)["Ready"] == "True", where
        assert status["observedGeneration"] <= item["metadata"]["generation"], where
        for condition in status.get("conditions", ()):
            assert 0 < condition["observedGeneration"] <= status["observedGeneration"], where
            assert condition["reason"], where
            assert condition["message"], where


def check_traces(recording: Recording) -> None:
    """No finalizer, and no note of kopf's, on any object."""
    for version in recording.versions():
        if version.kind == "Pod":  # the Job controller's finalizer
            continue
        meta = version.item["metadata"]
        assert not meta.get("finalizers"), version.name
        foreign = [key for key in {**meta.get("annotations", {}), **meta.get("labels", {})} if "kopf" in key]
        assert not foreign, f"{version.name}: {foreign}"
        assert "kopf" not in str(version.item.get("status")), version.name


def check_gpus(recording: Recording) -> int:
    """At no moment do pods of a server and pods of training with GPUs exist that have not ended.

    Returns:
        How often GPUs went from one to the other.
    """
    holders: dict[str, str] = {}
    changes, before = 0, ""
    for version in recording.versions("Pod"):
        meta, phase = version.item["metadata"], version.item.get("status", {}).get("phase")
        if version.event == "DELETED" or phase in ("Succeeded", "Failed"):
            holders.pop(meta["uid"], None)
        elif _gpus(version.item):
            holders[meta["uid"]] = "server" if LABEL_SERVER in meta["labels"] else "training"
        now = set(holders.values())
        assert len(now) <= 1, f"at {version.number} GPUs belong to {sorted(now)}: {holders}"
        if now and before != min(now):
            changes, before = changes + bool(before), min(now)
    return changes


def _gpus(pod: Object) -> int:
    return sum(
        int(container.get("resources", {}).get("limits", {}).get("nvidia.com/gpu", 0))
        for container in pod["spec"]["containers"]
    )


# --- what golden files say -----------------------------------------------------------------------------------


def summary_of(item: Object) -> str:
    """The conditions of an object as words: `Ready=False Reconciling=True Training`."""
    statuses = conditions_of(item)
    if not statuses:
        return "new"
    return " ".join([*(f"{kind}={value}" for kind, value in statuses.items()), item["status"]["reason"]])


def changes_of(recording: Recording) -> dict[str, list[str]]:
    """By object: how it stood, one after the other, and what its server was ordered to do."""
    changes: dict[str, list[str]] = {}
    for version in recording.versions(*KINDS, "Deployment"):
        lines = changes.setdefault(version.name, [])
        for line in _lines(version):
            if line not in _latest(lines, line):
                lines.append(line)
    return changes


def _lines(version: Version) -> list[str]:
    if version.event == "DELETED":
        return ["gone"]
    spec = version.item["spec"]
    if version.kind == "Deployment":
        return [f"replicas: {spec['replicas']}"]
    if version.kind == "PolicyServer":
        word = "serve" if spec["active"] else "release"
        return [f"ordered: {word} {spec['model']['uri'].rsplit('/', 1)[-1]}", summary_of(version.item)]
    return [summary_of(version.item)]


def _latest(lines: list[str], like: str) -> list[str]:
    """The last line of the same sort."""
    return [line for line in lines if line.startswith("ordered:") == like.startswith("ordered:")][-1:]


def created_between(recording: Recording, after: int, until: int) -> list[str]:
    """What was made in between, in no order."""
    return sorted(
        version.name
        for version in recording.versions(*KINDS, "Job", "Deployment")
        if version.event == "ADDED" and after < version.number <= until
    )
