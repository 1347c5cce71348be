"""What listens everywhere answers at addresses of both families: a cluster may have only IPv6."""

from __future__ import annotations

import asyncio
import http.client
import socket
import threading
from http.server import BaseHTTPRequestHandler

import pytest

from psr_operator.controller.metrics import Metrics, serve
from psr_runtime.progress import Progress
from psr_runtime.protocol import PROGRESS_HOST_VARIABLE, PROGRESS_PORT_VARIABLE
from psr_runtime.protocol.addresses import EVERYWHERE, for_others, http_server, listening
from psr_runtime.serving.control import ControlServer
from tests.serving.test_control import Served


def has_ipv6() -> bool:
    """Whether this machine has `::1`."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


pytestmark = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6: nothing can be asked at [::1]")
BOTH = ("127.0.0.1", "::1")


def get(address: str, port: int, path: str) -> int:
    """The status of an answer."""
    connection = http.client.HTTPConnection(address, port, timeout=5)
    connection.request("GET", path)
    status = connection.getresponse().status
    connection.close()
    return status


class Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(204)
        self.end_headers()


@pytest.mark.parametrize("host", EVERYWHERE)
def test_everywhere_means_both_families(host: str) -> None:
    server = http_server(host, 0, Answer)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        assert [get(address, server.server_port, "/") for address in BOTH] == [204, 204]
    finally:
        server.shutdown()
        server.server_close()


def test_one_address_is_one_address() -> None:
    with listening("::1", 0) as listener:
        assert listener.getsockname()[0] == "::1"
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", listener.getsockname()[1]), 5)


def test_a_port_in_use_is_an_error() -> None:
    with listening("0.0.0.0", 0) as listener, pytest.raises(OSError, match="in use"):
        listening("0.0.0.0", listener.getsockname()[1])


def test_vllm_is_told_a_host_that_means_both() -> None:
    assert for_others("0.0.0.0") == "::"
    assert for_others("127.0.0.1") == "127.0.0.1"


def test_the_operator_s_own_port_answers_at_both() -> None:
    async def ask() -> list[int]:
        async with serve(Metrics(), 0, lambda: True, lambda: True) as port:
            return [await asyncio.to_thread(get, address, port, "/metrics") for address in BOTH]

    assert asyncio.run(ask()) == [200, 200]


@pytest.fixture
def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def test_a_stage_s_progress_answers_at_both(free_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PROGRESS_HOST_VARIABLE, "0.0.0.0")
    monkeypatch.setenv(PROGRESS_PORT_VARIABLE, str(free_port))
    with Progress("search"):
        assert [get(address, free_port, "/progress") for address in BOTH] == [200, 200]


def test_a_server_s_control_port_answers_at_both(free_port: int) -> None:
    with ControlServer("0.0.0.0", free_port, Served()):
        assert {get(address, free_port, "/psr/ready") for address in BOTH} <= {200, 503}
