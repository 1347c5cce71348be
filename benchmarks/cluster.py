"""What a measurement of an operator stands on: a control plane without controllers, objects, a played node, a user.

Not here: what is measured (`operator.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.control_plane.client import Client
from harness.control_plane.plane import APIError, ControlPlane, start_control_plane
from psr_operator.api import GROUP, VERSION
from psr_operator.api.crd import rendered

ROOT = Path(__file__).parent.parent
NAMESPACE = "bench"
SYSTEM = "psr-system"
MODEL = {"uri": "s3://bucket/models/m1"}
ITERATIONS = f"/apis/{GROUP}/{VERSION}/namespaces/{NAMESPACE}/selfrewarditerations"
SERVERS = f"/apis/{GROUP}/{VERSION}/namespaces/{NAMESPACE}/policyservers"
START_SECONDS = 60.0
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))

Object = dict[str, Any]


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[ControlPlane]:
    """A control plane with PSR's kinds, two namespaces and the account that pods need."""
    with start_control_plane(folder, controllers=(), scheduler=False, enforce=True) as plane:
        for text in rendered().values():
            (name,) = re.findall(r"(?m)^  name: (\S+)$", text)[:1]
            path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}?fieldManager=bench&force=true"
            plane.request("PATCH", path, text, content="application/apply-patch+yaml")
        for name in (NAMESPACE, SYSTEM):
            plane.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
            plane.request("POST", f"/api/v1/namespaces/{name}/serviceaccounts", {"metadata": {"name": "default"}})
        for path in (ITERATIONS, SERVERS):
            _until_served(plane, path)
        yield plane


def identity(plane: ControlPlane, name: str, place: Path) -> tuple[str, Path]:
    """An administrator's account of this name: what the audit log calls it, and its kubeconfig."""
    accounts = f"/api/v1/namespaces/{SYSTEM}/serviceaccounts"
    plane.request("POST", accounts, {"metadata": {"name": name}})
    binding = {
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": SYSTEM}],
    }
    plane.request("POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding)
    asked = {"spec": {"expirationSeconds": 86400}}
    token = plane.request("POST", f"{accounts}/{name}/token", asked)["status"]["token"]
    return f"system:serviceaccount:{SYSTEM}:{name}", plane.kubeconfig_for(token, place)


def make_server(plane: ControlPlane, *, said_ready: bool) -> None:
    """The server that all iterations ask. `said_ready`: its status says so, for an operator that makes no servers."""
    server = {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "PolicyServer",
        "metadata": {"name": "server"},
        "spec": {"model": MODEL, "storage": {"uri": "s3://bucket/runs"}},
    }
    created = plane.request("POST", SERVERS, server)
    if not said_ready:
        return
    condition = {"type": "Ready", "status": "True", "reason": "Serving", "message": "", "observedGeneration": 1}
    condition["lastTransitionTime"] = "2026-01-01T00:00:00Z"
    status = {"endpoints": ["http://127.0.0.1:8000"], "model": MODEL["uri"], "digest": "sha256:m1"}
    body = {**created, "status": {**status, "observedGeneration": 1, "conditions": [condition]}}
    plane.request("PUT", f"{SERVERS}/server/status", body)


def make_iterations(plane: ControlPlane, count: int) -> None:
    """So many iterations that ask the server."""

    async def create() -> None:
        async with Client(plane) as client:
            await asyncio.gather(*(client.request("POST", ITERATIONS, iteration(number)) for number in range(count)))

    asyncio.run(create())


def iteration(number: int) -> Object:
    """A round on the server."""
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "SelfRewardIteration",
        "metadata": {"name": f"round-{number}"},
        "spec": {
            "model": MODEL,
            "problems": "s3://bucket/problems.jsonl",
            "questions": {"count": 100},
            "server": {"ref": "server"},
            "storage": {"uri": "s3://bucket/runs"},
        },
    }


class TooSlow(RuntimeError):
    """Not everything was ready in time; `ready` says how much was."""

    def __init__(self, ready: int, count: int, seconds: float) -> None:
        super().__init__(f"only {ready} of {count} were ready after {seconds:.0f} s")
        self.ready = ready


async def until_ready(
    plane: ControlPlane, path: str, count: int, process: subprocess.Popen[bytes], seconds: float
) -> float:
    """Watch until so many objects of a collection are Ready; when the last one was (monotonic).

    Raises:
        RuntimeError: the operator ended, or an object is Stalled.
        TooSlow: it took too long.
    """
    ready: set[str] = set()
    settled = asyncio.Event()
    failed: list[str] = []

    def tell(_: str, item: Object) -> None:
        conditions = {one["type"]: one for one in item.get("status", {}).get("conditions", [])}
        if conditions.get("Stalled", {}).get("status") == "True":
            failed.append(f"{item['metadata']['name']}: {conditions['Stalled']}")
            settled.set()
        if conditions.get("Ready", {}).get("status") == "True":
            ready.add(item["metadata"]["name"])
            if len(ready) == count:
                settled.set()

    async with Client(plane) as client:
        watching = asyncio.create_task(client.watch(path, tell, lambda: None))
        deadline = time.monotonic() + seconds
        try:
            while not settled.is_set():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(settled.wait(), 1.0)
                if process.poll() is not None:
                    failed.append(f"the operator ended with code {process.returncode}")
                if failed:
                    raise RuntimeError(failed[0])
                if time.monotonic() > deadline:
                    raise TooSlow(len(ready), count, seconds)
            return time.monotonic()
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)


@contextlib.contextmanager
def player(plane: ControlPlane, counts: Object) -> Iterator[None]:
    """The player in a process of its own; what it counted is put into `told`."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.play", plane.url, str(plane.ca)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        if process.stdout.readline() != b"ready\n":
            raise RuntimeError("the player did not start")
        yield
        process.stdin.close()
        counts |= json.loads(process.stdout.readline())
        process.wait(60)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def until_answers(url: str, process: subprocess.Popen[bytes]) -> float:
    """Wait until a health endpoint says yes; when it did (monotonic).

    Raises:
        RuntimeError: the process ended, or it took too long.
    """
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError, urllib.error.URLError), OPENER.open(url, timeout=2) as answer:
            if answer.status == 200:
                return time.monotonic()
        time.sleep(0.02)
    raise RuntimeError(f"{url} does not answer; the operator's exit code: {process.poll()}")


def _until_served(plane: ControlPlane, path: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            plane.request("GET", f"{path}?limit=1")
            return
        except APIError as error:
            if error.code not in (404, 503) or time.monotonic() > deadline:
                raise
            time.sleep(0.05)
