"""The control port over HTTP, with a stand-in for the server behind it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from harness.ports import free_ports
from psr_runtime.artefacts.fingerprint import Check
from psr_runtime.config import ModelSource
from psr_runtime.protocol import ServerPhase
from psr_runtime.protocol.errors import ConfigurationError
from psr_runtime.serving.control import ControlServer, State

CHECK = Check("Agrees", 1e-6, float("inf"), 0.4, 1e-4)


class Served:
    """Serves M1."""

    def __init__(self) -> None:
        self.orders: list[tuple[str, str]] = []
        self.state = State(state=ServerPhase.READY, digest="sha256:m1", served="sha256:m1", check=CHECK)

    def ready(self, digest: str) -> bool:
        return digest == self.state.served

    def describe(self) -> dict[str, Any]:
        return self.state.to_json()

    def order(self, model: ModelSource, digest: str) -> None:
        self.orders.append((model.uri, digest))


@pytest.fixture(params=["", "a-key"])
def key(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The bearer key of the server, or none."""
    monkeypatch.delenv("PSR_SERVER_KEY", raising=False)
    if request.param:
        monkeypatch.setenv("PSR_SERVER_KEY", request.param)
    return str(request.param)


@pytest.fixture
def served() -> Served:
    return Served()


@pytest.fixture
def client(key: str, served: Served) -> Iterator[httpx.Client]:
    """A client with the right key."""
    port = free_ports(2)[0]
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    with (
        ControlServer("127.0.0.1", port, served),
        httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, trust_env=False) as http,
    ):
        yield http


def test_ready_speaks_for_one_model_only(client: httpx.Client) -> None:
    yes, no = (client.get("/psr/ready", params={"digest": digest}) for digest in ("sha256:m1", "sha256:m2"))
    assert (yes.status_code, yes.json()["digest"], yes.json()["check"]["verdict"]) == (200, "sha256:m1", "Agrees")
    assert yes.json()["check"]["to_parent"] is None  # infinite, which JSON cannot say
    assert (no.status_code, no.json()["state"], no.headers["retry-after"]) == (503, "Ready", "1")


@pytest.mark.parametrize(
    ("state", "ready"),
    [
        (State("Fetching"), False),
        (State("Starting", digest="sha256:m1"), False),
        (State("Ready", digest="sha256:m1", served="sha256:m1"), True),
        (State("Fetching", digest="sha256:m2", served="sha256:m1"), False),
    ],
)
@pytest.mark.parametrize("path", ["/psr/ready", "/psr/ready?digest="])
def test_a_probe_needs_no_key_and_learns_nothing_but_whether_the_wanted_model_is_served(
    client: httpx.Client, served: Served, state: State, ready: bool, path: str
) -> None:
    served.state = state
    answer = client.get(path, headers={"Authorization": ""})
    assert (answer.status_code, answer.json()) == (200 if ready else 503, {"ready": ready})


def test_an_order_is_taken_and_answered_at_once(client: httpx.Client, served: Served) -> None:
    answer = client.put("/psr/model", json={"model": {"uri": "file:///m2"}, "digest": "sha256:m2"})
    assert answer.status_code == 202
    assert served.orders == [("file:///m2", "sha256:m2")]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"model": {"uri": "file://somewhere"}, "digest": "sha256:m2"}, "model.uri"),
        ({"model": {"uri": "file:///m2"}}, "digest"),
        ({"model": {"uri": "file:///m2"}, "digest": "sha256:m2", "urgent": True}, "urgent"),
        ([], "the body"),
    ],
)
def test_a_broken_order_is_refused_by_field(client: httpx.Client, served: Served, body: Any, message: str) -> None:
    answer = client.put("/psr/model", json=body)
    assert answer.status_code == 400
    assert message in answer.json()["error"]
    assert served.orders == []


def test_what_is_too_long_or_elsewhere_is_refused(client: httpx.Client) -> None:
    assert client.put("/psr/model", content=b"x" * (64 * 1024 + 1)).status_code == 413
    assert client.put("/psr/other", json={}).status_code == 404
    assert client.get("/psr/other").status_code == 404
    assert client.get("/psr/state").json()["served"] == "sha256:m1"


def test_the_key_is_asked_for(key: str, client: httpx.Client, served: Served) -> None:
    order = {"model": {"uri": "file:///m2"}, "digest": "sha256:m2"}
    statuses = [
        client.request(verb, path, json=body, headers={"Authorization": "Bearer wrong"}).status_code
        for verb, path, body in (
            ("GET", "/psr/state", None),
            ("GET", "/psr/ready?digest=sha256:m1", None),
            ("GET", "/psr/other", None),
            ("PUT", "/psr/model", order),
        )
    ]
    assert statuses == ([401, 401, 401, 401] if key else [200, 200, 404, 202])
    assert len(served.orders) == (0 if key else 1)


def test_a_port_in_use_is_named(client: httpx.Client, served: Served) -> None:
    port = client.base_url.port
    with pytest.raises(ConfigurationError, match=f"port {port} on 127.0.0.1 cannot be bound"):
        ControlServer("127.0.0.1", port or 0, served)
