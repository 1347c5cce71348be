"""Nodes that KWOK plays, as many as are wanted on one machine, and what the server pods on them answer.

`scale/` says what becomes of nodes and pods. KWOK gives pods no network, so their addresses are loopback ones, and
`ControlPorts` answers there for the servers.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from harness.control_plane.build import program
from harness.control_plane.client import Client
from harness.control_plane.plane import APIError, ControlPlane
from harness.control_plane.pod_ports import Order, Ports, Serving
from psr_operator.local.rehearsal import rehearsed_result
from psr_operator.render import LABEL_SERVER
from psr_runtime import stages

STAGES = Path(__file__).parent / "scale"
CAPACITY = {"cpu": "64", "memory": "512Gi", "pods": "110", "nvidia.com/gpu": "8"}
START_SECONDS = 60.0
LOAD_SECONDS = 1.0
"""How long a server loads a model."""
SERVE = "serve.json"

Object = dict[str, Any]


def configuration(pace: float = 1.0) -> str:
    """What KWOK reads: the files of `scale/`, every delay times `pace`."""
    results = json.dumps({stage: rehearsed_result(stage) for stage in stages.STAGES})
    found = []
    for file in sorted(STAGES.glob("*.yaml")):
        text = file.read_text().replace("@RESULTS@", results)
        for item in YAML(typ="safe").load_all(text):
            delay = item.get("spec", {}).get("delay", {})
            delay |= {key: round(value * pace) for key, value in delay.items()}
            found.append(json.dumps(item))
    return "\n---\n".join(found) + "\n"


@contextlib.contextmanager
def kwok(plane: ControlPlane, network: str, pace: float) -> Iterator[subprocess.Popen[bytes]]:
    """KWOK, until the block ends; it plays every node. Its log lies beside those of the control plane.

    Args:
        network: that pods get their addresses from.
        pace: factor of all delays.
    """
    config = plane.folder / "kwok.yaml"
    config.write_text(configuration(pace))
    command = [program("kwok"), f"--kubeconfig={plane.kubeconfig}", f"--config={config}", f"--cidr={network}"]
    environment = {
        **os.environ,
        "GOMAXPROCS": "2",
        "HOME": str(plane.folder),  # no configuration of the user's own
    }
    with open(plane.folder / "kwok.log", "wb") as log:
        process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
        )
    try:
        yield process
    finally:
        end(process)


def without_streamed_lists(plane: ControlPlane) -> None:
    """Start the apiserver anew without the feature WatchList.

    KWOK watches from version 0. With the feature that asks for a streamed list, and an apiserver whose etcd is older
    than 3.5.13 refuses one: KWOK would see nothing but its own lists, every half minute.

    Raises:
        RuntimeError: it does not come back.
    """
    before = plane.processes["kube-apiserver"]
    end(before)
    with open(plane.folder / "kube-apiserver.log", "ab") as log:
        plane.processes["kube-apiserver"] = subprocess.Popen(
            [*before.args, "--feature-gates=WatchList=false"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "GOMAXPROCS": "2"},
        )
    deadline = time.monotonic() + START_SECONDS
    while True:
        with contextlib.suppress(APIError, OSError):
            if plane.request("GET", "/readyz") == "ok":
                return
        if time.monotonic() > deadline:
            raise RuntimeError("kube-apiserver did not start anew; see kube-apiserver.log")
        time.sleep(0.05)


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask a process to end, and see to it."""
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


async def make_nodes(client: Client, count: int, player: subprocess.Popen[bytes]) -> None:
    """Make so many nodes, and wait until pods may be bound to all of them.

    Args:
        player: KWOK's process.

    Raises:
        RuntimeError: they are not ready in time, or KWOK has ended.
    """
    await asyncio.gather(*(client.request("POST", "/api/v1/nodes", _node(number)) for number in range(count)))
    deadline = time.monotonic() + START_SECONDS
    while True:
        items = (await client.request("GET", "/api/v1/nodes"))["items"]
        usable = sum(_usable(item) for item in items)
        if usable >= count:
            return
        if player.poll() is not None:
            raise RuntimeError(f"KWOK ended with code {player.returncode}; see kwok.log")
        if time.monotonic() > deadline:
            raise RuntimeError(f"{usable} of {count} nodes are ready after {START_SECONDS:.0f} s; see kwok.log")
        await asyncio.sleep(0.2)


def _node(number: int) -> Object:
    name = f"node-{number:03}"
    labels = {"kubernetes.io/hostname": name, "topology.kubernetes.io/zone": f"zone-{number % 4}"}
    address = ipaddress.ip_address("10.0.0.0") + number + 1
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "status": {
            "capacity": CAPACITY,
            "allocatable": CAPACITY,
            "addresses": [{"type": "Hostname", "address": name}, {"type": "InternalIP", "address": str(address)}],
        },
    }


def _usable(node: Object) -> bool:
    conditions = {item["type"]: item["status"] for item in node["status"].get("conditions", ())}
    return conditions.get("Ready") == "True" and not node["spec"].get("taints")


class ControlPorts:
    """The control ports of all server pods, each on its pod's address. Made and used in one event loop.

    Attributes:
        network: of loopback addresses that nobody else on this machine answers on.
        orders: every `PUT /psr/model` that came.
        errors: what went wrong here.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._ports = Ports()
        self._serving: dict[str, tuple[str, Serving]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.network = str(ipaddress.ip_network(f"{self._ports.address()}/16", strict=False))
        self.orders: list[Order] = []
        self.errors: list[BaseException] = []

    def seen(self, kind: str, pod: Object) -> None:
        """A pod as a watch tells it: a server answers from when it runs until it is gone."""
        meta, status = pod["metadata"], pod.get("status", {})
        uid, address = meta["uid"], status.get("podIP")
        if LABEL_SERVER not in meta.get("labels", {}):
            return
        if kind == "DELETED":
            self._close(uid)
        elif uid not in self._serving and status.get("phase") == "Running" and address:
            serving = Serving(meta["name"], lambda: LOAD_SECONDS, {}, self.orders, lambda: None)
            self._serving[uid] = (address, serving)
            task = asyncio.create_task(self._open(uid, pod))
            self._tasks.add(task)
            task.add_done_callback(self._ended)

    async def close(self) -> None:
        for uid in list(self._serving):
            self._close(uid)
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._ports.close_all()

    async def _open(self, uid: str, pod: Object) -> None:
        config = await self._configuration(pod)
        if uid not in self._serving:  # it has gone meanwhile
            return
        address, serving = self._serving[uid]
        await self._ports.open(address, (int(config.get("port", 8000)) + 1,), serving.answer)
        if uid not in self._serving:
            self._ports.close(address)
            return
        serving.load(config["model"]["uri"], None, first=True)

    async def _configuration(self, pod: Object) -> Object:
        """The `serve.json` of the ConfigMap that a pod mounts."""
        (name,) = (item["configMap"]["name"] for item in pod["spec"]["volumes"] if "configMap" in item)
        path = f"/api/v1/namespaces/{pod['metadata']['namespace']}/configmaps/{name}"
        found: Object = json.loads((await self._client.request("GET", path))["data"][SERVE])
        return found

    def _close(self, uid: str) -> None:
        address, serving = self._serving.pop(uid, (None, None))
        if address is not None and serving is not None:
            serving.stop()
            self._ports.close(address)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.errors.append(error)
