"""A name with several addresses is several replicas: real servers on 127.0.0.1 and 127.0.0.2, a stand-in for DNS."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from harness.ports import free_ports
from psr_runtime.config import Endpoint
from psr_runtime.engine import Completion, Sampling, VLLMClient, addresses_of
from psr_runtime.protocol.errors import Interrupted

ONE, TWO = "127.0.0.1", "127.0.0.2"
BODY = b'{"choices": [{"index": 0, "token_ids": [7], "finish_reason": "stop"}], "data": [{"max_model_len": 99}]}'


class Replicas:
    """Servers of one port, by address; what each was asked."""

    def __init__(self) -> None:
        self.port = free_ports(2)[0]
        self.asked: dict[str, int] = {}
        self._servers: dict[str, ThreadingHTTPServer] = {}

    def start(self, address: str) -> None:
        replicas = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                replicas.asked[address] = replicas.asked.get(address, 0) + 1
                self.do_GET()

            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Length", str(len(BODY)))
                self.end_headers()
                self.wfile.write(BODY)

            def log_message(self, *_: Any) -> None:
                """Quiet."""

        self._servers[address] = ThreadingHTTPServer((address, self.port), Handler)
        Thread(target=self._servers[address].serve_forever, args=(0.02,), daemon=True).start()

    def stop(self, address: str) -> None:
        server = self._servers.pop(address)
        server.shutdown()
        server.server_close()

    def stop_all(self) -> None:
        for address in list(self._servers):
            self.stop(address)


class Names:
    """A resolver whose answer the test changes; None: the name does not resolve."""

    def __init__(self, *addresses: str) -> None:
        self.addresses: list[str] | None = list(addresses)
        self.lookups = 0

    async def __call__(self, host: str, port: int) -> list[str]:
        assert host == "policy.team.svc"
        self.lookups += 1
        await asyncio.sleep(0.01)
        if self.addresses is None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return sorted(self.addresses)


@pytest.fixture
def replicas() -> Iterator[Replicas]:
    replicas = Replicas()
    yield replicas
    replicas.stop_all()


def client(replicas: Replicas, names: Names, ready_seconds: int = 20) -> VLLMClient:
    endpoint = Endpoint(urls=[f"http://policy.team.svc:{replicas.port}"], ready_seconds=ready_seconds)
    return VLLMClient(endpoint, "sha256:m1", resolve=names)


async def ask(engine: VLLMClient, count: int) -> list[list[Completion]]:
    """One request for each of `count` problems, all at once."""
    sampling = Sampling(max_tokens=1)
    return await asyncio.gather(
        *(engine.complete([1], sampling, purpose="judge", affinity=f"problem-{index}") for index in range(count))
    )


def test_problems_are_shared_out_and_each_stays_with_its_replica(replicas: Replicas) -> None:
    replicas.start(ONE)
    replicas.start(TWO)
    names = Names(TWO, ONE)

    async def work() -> None:
        async with client(replicas, names) as engine:
            assert await engine.context_length() == 99
            answers = await ask(engine, 40)
            assert {answer[0].token_ids[0] for answer in answers} == {7}
            first = dict(replicas.asked)
            assert sum(first.values()) == 40
            assert min(first.values()) >= 10
            await ask(engine, 40)
            assert replicas.asked == {address: 2 * count for address, count in first.items()}

    asyncio.run(work())
    assert names.lookups == 1


def test_when_a_replica_is_gone_its_problems_go_where_the_name_points_now(replicas: Replicas) -> None:
    replicas.start(ONE)
    names = Names(ONE, TWO)  # nobody answers at the second address

    async def work() -> None:
        async with client(replicas, names) as engine:
            waiting = asyncio.create_task(ask(engine, 40))
            await asyncio.sleep(0.3)
            assert not waiting.done()
            names.addresses = [ONE, "127.0.0.3"]
            replicas.start("127.0.0.3")
            assert len(await waiting) == 40

    asyncio.run(work())
    assert set(replicas.asked) == {ONE, "127.0.0.3"}
    assert names.lookups <= 4  # not one a request


def test_a_name_that_does_not_resolve_yet_is_waited_for(replicas: Replicas) -> None:
    replicas.start(ONE)
    replicas.start(TWO)
    names = Names()
    names.addresses = None

    async def work() -> None:
        async with client(replicas, names) as engine:
            waiting = asyncio.create_task(ask(engine, 20))
            await asyncio.sleep(0.3)
            names.addresses = [ONE, TWO]
            assert len(await waiting) == 20

    asyncio.run(work())
    assert set(replicas.asked) == {ONE, TWO}


@pytest.mark.parametrize("addresses", [None, [ONE, TWO]])
def test_the_wait_is_bounded(replicas: Replicas, addresses: list[str] | None) -> None:
    names = Names()
    names.addresses = addresses

    async def work() -> None:
        async with client(replicas, names, ready_seconds=1) as engine:
            await ask(engine, 1)

    started = time.monotonic()
    with pytest.raises(Interrupted, match=r"not ready for sha256:m1 in 1 s; it cannot be reached"):
        asyncio.run(work())
    assert time.monotonic() - started < 5


def test_one_address_leaves_the_url_as_it_is() -> None:
    async def bases(url: str, *addresses: str) -> list[str]:
        async def resolve(host: str, port: int) -> list[str]:
            return list(addresses)

        return await VLLMClient(Endpoint(urls=[url]), "d", resolve=resolve)._bases(url)

    assert asyncio.run(bases("http://policy:8000/", ONE)) == ["http://policy:8000"]
    assert asyncio.run(bases("http://policy:8000/v", ONE, TWO)) == [f"http://{ONE}:8000/v", f"http://{TWO}:8000/v"]
    assert asyncio.run(bases("http://policy", "fd00::1", "fd00::2")) == ["http://[fd00::1]:80", "http://[fd00::2]:80"]
    assert asyncio.run(bases("https://policy:8000", ONE, TWO)) == ["https://policy:8000"]


def test_addresses_of_one_family() -> None:
    assert asyncio.run(addresses_of("127.0.0.1", 80)) == [ONE]
    assert asyncio.run(addresses_of("::1", 80)) == ["::1"]
    assert asyncio.run(addresses_of("localhost", 80)) == [ONE]  # not ::1 beside it, where perhaps nobody listens
    with pytest.raises(socket.gaierror):
        asyncio.run(addresses_of("policy.invalid", 80))
