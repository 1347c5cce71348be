"""Client of a PolicyServer: token ids in, token ids out, for one model digest and no other.

Every sampling field is sent with every request, so that no server default leaks in. A server that is not there, not
ready or still serves another model is waited for; what it answers under another digest is never accepted.
A name with several addresses (a headless Service) is several replicas.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

import aiohttp

from psr_runtime.config import Endpoint
from psr_runtime.protocol import DIGEST_HEADER, KEY_VARIABLE
from psr_runtime.protocol.errors import ConfigurationError, DataError, Interrupted

SERVED_NAME = "psr"
"""Name under which a PolicyServer serves whatever model it has; the digest tells models apart."""

CONNECTIONS = 512
"""Requests under way at once; a process may have 1,024 files open on most machines."""

LOOK_AGAIN_SECONDS = 1.0
"""Names are looked up at most this often, however many requests wait for a server that is away."""


@dataclass(frozen=True)
class Sampling:
    """How to sample.

    Attributes:
        n: completions per prompt, from one prefill.
        seed: 48-bit seed of the request, None for none.
        stop: strings that end a completion; the text after them is not sampled.
        stop_token_ids: ids that end a completion and stay in it.
    """

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    n: int = 1
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Completion:
    """One completion: its ids as sampled (a stop token is among them, ids of a stop string too) and why it ended."""

    token_ids: list[int]
    finish_reason: Literal["stop", "length"]


@dataclass
class Usage:
    """Tokens of one purpose: prompts sent, of them those that the prefix cache had, and sampled.

    `cached_tokens` counts requests for one completion only: of several, vLLM reports the last one's.
    """

    requests: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0


class Engine(Protocol):
    """What search and evaluation need of a server. Usable as an async context manager."""

    usage: dict[str, Usage]

    async def complete(
        self, prompt_ids: list[int], sampling: Sampling, *, purpose: str, affinity: str
    ) -> list[Completion]:
        """Sample `sampling.n` completions of a prompt.

        Args:
            purpose: under what to count the tokens (`candidates`, `judge`, `evaluate`).
            affinity: requests of the same value go to the same replica, so that they share its prefix cache.
        """
        ...

    async def context_length(self) -> int:
        """Tokens that prompt and completion may have together."""
        ...

    async def __aenter__(self) -> Engine: ...
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def open_engine(endpoint: Endpoint, digest: str) -> Engine:
    """The engine that answers for the model of this digest. Bearer key: `PSR_SERVER_KEY`, where the server has one.

    Raises:
        DataError: the endpoint is known to serve another model.
    """
    if endpoint.model_digest not in (None, digest):
        raise DataError(
            f"{endpoint.urls[0]}: serves {endpoint.model_digest} and the model is {digest} now; start the server anew"
        )
    return VLLMClient(endpoint, digest, os.environ.get(KEY_VARIABLE))


async def addresses_of(host: str, port: int) -> list[str]:
    """Addresses of a host, sorted: of IPv4, else of IPv6 (a replica that has both is one replica).

    Raises:
        OSError: the name does not resolve.
    """
    entries = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    families = {family: sorted({str(item[4][0]) for item in entries if item[0] == family}) for family, *_ in entries}
    return families.get(socket.AF_INET) or families.get(socket.AF_INET6) or []


@dataclass
class VLLMClient:
    """`Engine` on the OpenAI completions route of vLLM, with its token-id extensions.

    Attributes:
        endpoint: replicas and how long to wait for them.
        digest: the model that must answer.
        key: bearer key, None for an open server.
        resolve: addresses of a host and port.
    """

    endpoint: Endpoint
    digest: str
    key: str | None = None
    usage: dict[str, Usage] = field(default_factory=dict)
    resolve: Callable[[str, int], Awaitable[list[str]]] = addresses_of
    _replicas: list[str] = field(default_factory=list)
    _stale: bool = True
    _look_at: float = 0.0
    _looking: asyncio.Lock = field(default_factory=asyncio.Lock)
    _client: aiohttp.ClientSession | None = None
    _context: int | None = None

    async def __aenter__(self) -> VLLMClient:
        headers = {DIGEST_HEADER: self.digest}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        self._client = aiohttp.ClientSession(
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=10.0, sock_read=float(self.endpoint.ready_seconds)),
            connector=aiohttp.TCPConnector(limit=CONNECTIONS),
            trust_env=False,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._client is not None:
            await self._client.close()
            self._client = None

    async def context_length(self) -> int:
        if self._context is None:
            answer = await self._ask("GET", None, "/v1/models", None)
            self._context = int(answer["data"][0]["max_model_len"])
        return self._context

    async def complete(
        self, prompt_ids: list[int], sampling: Sampling, *, purpose: str, affinity: str
    ) -> list[Completion]:
        body: dict[str, Any] = {
            "model": SERVED_NAME,
            "prompt": prompt_ids,
            "n": sampling.n,
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": 0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "min_tokens": 0,
            "ignore_eos": False,
            "stop": list(sampling.stop),
            "stop_token_ids": list(sampling.stop_token_ids),
            "skip_special_tokens": False,
            "spaces_between_special_tokens": False,
            "return_token_ids": True,
        }
        if sampling.seed is not None:
            body["seed"] = sampling.seed
        answer = await self._ask("POST", affinity, "/v1/completions", body)
        self._count(purpose, answer.get("usage") or {}, sampling.n)
        choices = sorted(answer["choices"], key=lambda choice: int(choice["index"]))
        return [
            Completion(list(choice["token_ids"]), "length" if choice["finish_reason"] == "length" else "stop")
            for choice in choices
        ]

    async def _replica(self, affinity: str | None) -> str:
        """Base URL of the replica for an affinity, of the first one for None.

        Raises:
            OSError: a name does not resolve.
        """
        async with self._looking:
            if self._stale and time.monotonic() >= self._look_at:
                self._look_at = time.monotonic() + LOOK_AGAIN_SECONDS
                self._replicas = []
                self._replicas = [base for url in self.endpoint.urls for base in await self._bases(url)]
                self._stale = False
            bases = self._replicas
        if not bases:
            raise OSError("its name does not resolve")
        if affinity is None:
            return bases[0]
        return bases[int.from_bytes(hashlib.sha256(affinity.encode()).digest()[:6], "big") % len(bases)]

    async def _bases(self, url: str) -> list[str]:
        """Base URL of each replica behind a URL: itself, unless its host has several addresses.

        A certificate is for a name, so https stays with it.
        """
        parts = urlsplit(url.rstrip("/"))
        if parts.scheme != "http" or parts.hostname is None:
            return [parts.geturl()]
        port = parts.port or 80
        addresses = await self.resolve(parts.hostname, port)
        if len(addresses) < 2:
            return [parts.geturl()]
        hosts = [f"[{address}]" if ":" in address else address for address in addresses]
        return [f"http://{host}:{port}{parts.path}" for host in hosts]

    def _count(self, purpose: str, usage: dict[str, Any], n: int) -> None:
        total = self.usage.setdefault(purpose, Usage())
        total.requests += 1
        total.prompt_tokens += int(usage.get("prompt_tokens") or 0)
        total.completion_tokens += int(usage.get("completion_tokens") or 0)
        if n == 1:
            total.cached_tokens += int((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0)

    async def _ask(self, verb: str, affinity: str | None, route: str, body: dict[str, Any] | None) -> dict[str, Any]:
        """One request, waiting while the server is away, not ready or on another model.

        When a replica does not answer, its name is looked up again before the next try: another pod may stand for it.

        Raises:
            Interrupted: it did not become ready in time.
            ConfigurationError: the key is refused.
            DataError: the server refuses the request itself.
        """
        assert self._client is not None, "use the client as an async context manager"
        url = self.endpoint.urls[0].rstrip("/") + route
        deadline = time.monotonic() + self.endpoint.ready_seconds
        pause = 0.05
        while True:
            try:
                url = await self._replica(affinity) + route
                async with self._client.request(verb, url, json=body) as response:
                    status, content = response.status, await response.read()
            except (aiohttp.ClientError, OSError) as error:
                why = f"cannot be reached ({type(error).__name__})"
                self._stale = True
            else:
                if status == 200:
                    answer: dict[str, Any] = json.loads(content)
                    return answer
                text = content.decode(errors="replace")
                if status in (401, 403):
                    raise ConfigurationError(f"{url}: the server refuses the bearer key; check {KEY_VARIABLE}")
                if status in (400, 404, 413, 422):
                    raise DataError(f"{url}: the server refuses the request: {text[:500]}")
                why = f"answers {status}: {text[:200]}"
            if time.monotonic() >= deadline:
                raise Interrupted(f"{url}: not ready for {self.digest} in {self.endpoint.ready_seconds} s; it {why}")
            await asyncio.sleep(pause)
            pause = min(2.0, pause * 1.5)


def seed_of(*parts: str | int | Sequence[int]) -> int:
    """A 48-bit seed from SHA-256 over the parts. Never arithmetic: vLLM gives child i of a request `seed + i`."""
    text = "\x1f".join(",".join(map(str, part)) if not isinstance(part, str | int) else str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")
