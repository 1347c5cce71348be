"""The chart's NetworkPolicies on a real network: who reaches whom, tried from pods with the labels of ours.

What the rendered policies mean is a table in tests/chart/test_network.py. Here the network itself is asked, where it
has a policy engine; that of `make cluster-up` has none, which is found out and not assumed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from harness.control_plane.paths import collection_of
from harness.control_plane.plane import ControlPlane
from tests.cluster import release, store
from tests.cluster.pods import run_python
from tests.cluster.store import Store

PORTS = (8000, 8001, 8090, 9000)
LISTEN = f"""
import selectors, socket
waiting = selectors.DefaultSelector()
for port in {PORTS}:
    waiting.register(socket.create_server(("", port)), selectors.EVENT_READ)
while True:
    for key, _ in waiting.select():
        key.fileobj.accept()[0].close()
"""
CONNECT = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=3).close()
    print("reached")
except (TimeoutError, ConnectionRefusedError):
    print("refused")
"""
SETTLE_SECONDS = 60.0
"""Within which a network takes up a policy."""
OURS = "app.kubernetes.io/managed-by"
PART = "app.kubernetes.io/component"
LABELS = {
    "server": {OURS: "psr", PART: "server"},
    "search": {OURS: "psr", PART: "stage", "psr.dev/stage": "search"},
    "rank-0": {OURS: "psr", PART: "stage", "psr.dev/stage": "step-dpo"},
    "rank-1": {OURS: "psr", PART: "stage", "psr.dev/stage": "step-dpo"},
}
S3 = "s3"
TABLE = {
    ("search", "server", 8000): True,
    ("search", "server", 8001): False,
    ("search", "rank-0", 8090): False,
    ("search", "stranger", 9000): False,
    ("search", S3, store.PORT): True,
    ("server", "search", 8090): False,
    ("server", "stranger", 9000): False,
    ("server", S3, store.PORT): True,
    ("rank-0", "rank-1", 9000): True,
    ("rank-0", "search", 9000): False,
    ("stranger", "server", 8000): False,
    ("stranger", "server", 8001): False,
    ("stranger", "search", 8090): False,
    ("stranger", "rank-0", 9000): False,
}
"""From, to, port: whether the chart opens it. The stranger is a pod of another namespace."""
CLOSED = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"name": "closed"},
    "spec": {"podSelector": {}, "policyTypes": ["Ingress"]},
}


@dataclass(frozen=True)
class Network:
    """Pods that listen, and the addresses of all."""

    cluster: ControlPlane
    guarded: str
    outside: str
    addresses: dict[str, str]

    def reaches(self, source: str, destination: str, port: int) -> bool:
        """Whether a connection is made; one of which nothing is heard within 3 s is not."""
        namespace = self.outside if source == "stranger" else self.guarded
        words = ("exec", source, "-n", namespace, "--", "python3", "-c", CONNECT)
        said = self.cluster.ctl(*words, self.addresses[destination], str(port)).strip()
        assert said in ("reached", "refused"), said
        return said == "reached"

    def until(self, expected: dict[tuple[str, str, int], bool]) -> dict[tuple[str, str, int], bool]:
        """What of these is otherwise, after as long as the network may take."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while True:
            reached_now = {key: self.reaches(*key) for key in expected}
            wrong = {key: reached for key, reached in reached_now.items() if reached != expected[key]}
            if not wrong or time.monotonic() > deadline:
                return wrong
            time.sleep(1)


@pytest.fixture(scope="module")
def network(installed: ControlPlane, store: Store, team: Callable[[str], str]) -> Network:
    guarded, outside = team("team-guarded"), team("team-outside")
    places = [(guarded, name) for name in LABELS] + [(outside, "stranger")]
    for namespace, name in places:
        run_python(installed, namespace, name, LISTEN, labels=LABELS.get(name))
    addresses = {S3: store.endpoint.removeprefix("http://").rsplit(":", 1)[0]}
    for namespace, name in places:
        installed.ctl("wait", f"pod/{name}", "-n", namespace, "--for=condition=Ready", "--timeout=180s")
        pod = installed.request("GET", f"{collection_of('Pod', namespace)}/{name}")
        addresses[name] = pod["status"]["podIP"]
    return Network(installed, guarded, outside, addresses)


def test_without_policies_everybody_reaches_everybody(network: Network) -> None:
    """So that what is refused below is refused by a policy."""
    assert network.until(dict.fromkeys(TABLE, True)) == {}


@pytest.fixture
def enforced(network: Network) -> None:
    """Whether policies mean anything on this network: a namespace that lets nobody in."""
    path = f"/apis/networking.k8s.io/v1/namespaces/{network.guarded}/networkpolicies"
    network.cluster.request("POST", path, CLOSED)
    try:
        deadline = time.monotonic() + 15
        while reached := network.reaches("stranger", "server", 8000):
            if time.monotonic() > deadline:
                break
            time.sleep(1)
    finally:
        network.cluster.request("DELETE", f"{path}/closed")
    if reached:
        pytest.skip("this network has no policy engine: a namespace that lets nobody in was reached all the same")


@pytest.fixture
def policies(network: Network, enforced: None) -> Iterator[None]:
    """The chart's policies over the guarded namespace."""
    to = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": store.NAMESPACE}}}
    chosen = {"enabled": True, "namespaces": [network.guarded], "storage": {"to": [to], "ports": [store.PORT]}}
    release.install(network.cluster, {**release.values(), "networkPolicies": chosen})
    yield
    release.install(network.cluster, release.values())


def test_the_network_does_what_the_policies_say(network: Network, policies: None) -> None:
    assert network.until(TABLE) == {}
