"""The nodes that a player plays: made Ready, kept alive by their Leases where a controller asks for them, removed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import aiohttp

from harness.control_plane.client import Client
from harness.control_plane.plane import APIError

LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
LEASE_SECONDS = 40
RENEWAL_SECONDS = 15.0
"""The node lifecycle controller gives a node up after 50 s without a sign of life."""


async def make_nodes(client: Client, names: Sequence[str], capacity: Mapping[str, str]) -> None:
    """Make nodes to which pods may be bound."""
    await asyncio.gather(*(_make_node(client, name, number, capacity) for number, name in enumerate(names)))


async def _make_node(client: Client, name: str, number: int, capacity: Mapping[str, str]) -> None:
    labels = {
        "psr.dev/player": "1",
        "kubernetes.io/hostname": name,
        "topology.kubernetes.io/zone": f"zone-{number % 4}",
    }
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}
    await client.request("POST", "/api/v1/nodes", node)
    ready = {"type": "Ready", "status": "True", "reason": "Playing", "message": ""}
    status = {"capacity": dict(capacity), "allocatable": dict(capacity), "conditions": [ready]}
    await client.merge(f"/api/v1/nodes/{name}/status", {"status": status})
    await client.merge(f"/api/v1/nodes/{name}", {"spec": {"taints": None}})


async def keep_alive(client: Client, names: Sequence[str]) -> None:
    """Renew the nodes' Leases, as a kubelet does, until cancelled."""

    def spec(name: str) -> dict[str, object]:
        renewed = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return {"holderIdentity": name, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": renewed}

    await asyncio.gather(
        *(client.request("POST", LEASES, {"metadata": {"name": name}, "spec": spec(name)}) for name in names)
    )
    while True:
        await asyncio.sleep(RENEWAL_SECONDS)
        await asyncio.gather(*(client.merge(f"{LEASES}/{name}", {"spec": spec(name)}) for name in names))


async def remove_nodes(client: Client, names: Sequence[str]) -> None:
    """Remove nodes; an apiserver that is gone keeps none."""
    for name in names:
        with contextlib.suppress(APIError, aiohttp.ClientError):
            await client.request("DELETE", f"/api/v1/nodes/{name}")
