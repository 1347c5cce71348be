"""Who passes the guard, without vLLM."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from psr_runtime.serving.guard import Guard

TOKEN, KEY, DIGEST = "t" * 43, "a-key", "sha256:m1"
BEARER = {"Authorization": f"Bearer {KEY}"}
CLIENT = BEARER | {"X-PSR-Model-Digest": DIGEST}
SUPERVISOR = BEARER | {"X-PSR-Token": TOKEN}


class Application:
    """Stands for vLLM: answers 200 and remembers what reached it; can be made to wait."""

    def __init__(self) -> None:
        self.reached: list[str] = []
        self.hold: asyncio.Event | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.reached.append(scope.get("path", scope["type"]))
        if self.hold is not None:
            await self.hold.wait()
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"{}"})


async def call(
    guard: Guard, path: str, headers: dict[str, str] | None = None, *, verb: str = "POST", body: Any = None
) -> tuple[int, dict[str, Any], dict[str, str]]:
    """One request; status, body and headers of the answer."""
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": verb,
        "path": path,
        "headers": [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()],
    }
    await guard(scope, receive, send)
    answered = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], json.loads(sent[1]["body"] or b"{}"), answered


def opened(application: Application, environment: dict[str, str] | None = None) -> Guard:
    guard = Guard(application, environment or {"PSR_GUARD_TOKEN": TOKEN, "PSR_SERVER_KEY": KEY})
    status, _, _ = asyncio.run(call(guard, "/psr/gate", SUPERVISOR, body={"digest": DIGEST, "open": True}))
    assert status == 200
    return guard


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/health", {}, 200),
        ("/v1/completions", CLIENT, 200),
        ("/v1/models", CLIENT, 200),
        ("/metrics", BEARER, 200),
        ("/version", BEARER, 200),
        # no key, a wrong one, another scheme
        ("/v1/completions", {"X-PSR-Model-Digest": DIGEST}, 401),
        ("/v1/completions", CLIENT | {"Authorization": "Bearer other"}, 401),
        ("/v1/completions", CLIENT | {"Authorization": f"Basic {KEY}"}, 401),
        ("/metrics", {}, 401),
        ("/psr/gate", {"X-PSR-Token": TOKEN}, 401),
        # another model, or none named
        ("/v1/completions", BEARER | {"X-PSR-Model-Digest": "sha256:m2"}, 409),
        ("/v1/completions", BEARER, 409),
        # what only the supervisor may
        ("/collective_rpc", CLIENT, 403),
        ("/pause", CLIENT, 403),
        ("/reset_prefix_cache", CLIENT | {"X-PSR-Token": "guess"}, 403),
        ("/sleep", CLIENT | {"X-PSR-Token": ""}, 403),
        ("/psr/gate", CLIENT, 403),
        ("/invocations", CLIENT, 403),
        ("/inference/v1/generate", CLIENT, 403),
        ("//v1/completions", CLIENT, 403),
        ("/health/", CLIENT, 403),
        ("/collective_rpc", SUPERVISOR, 200),
        ("/v1/completions", SUPERVISOR, 200),
    ],
)
def test_who_may_what(path: str, headers: dict[str, str], status: int) -> None:
    application = Application()
    guard = opened(application)
    answered, _, _ = asyncio.run(call(guard, path, headers))
    assert answered == status
    assert application.reached == ([path] if status == 200 else [])


def test_a_refusal_names_both_digests() -> None:
    guard = opened(Application())
    status, body, _ = asyncio.run(call(guard, "/v1/completions", BEARER | {"X-PSR-Model-Digest": "sha256:m2"}))
    assert (status, body["served"], body["asked"]) == (409, DIGEST, "sha256:m2")


def test_a_closed_gate_says_when_to_come_again() -> None:
    guard = Guard(Application(), {"PSR_GUARD_TOKEN": TOKEN, "PSR_SERVER_KEY": KEY})
    status, _, headers = asyncio.run(call(guard, "/v1/completions", CLIENT))
    assert (status, headers["retry-after"]) == (503, "1")
    assert asyncio.run(call(guard, "/collective_rpc", SUPERVISOR))[0] == 200


def test_without_a_token_nobody_is_the_supervisor() -> None:
    guard = Guard(Application(), {})
    assert asyncio.run(call(guard, "/collective_rpc", {"X-PSR-Token": ""}))[0] == 403
    assert asyncio.run(call(guard, "/psr/gate", {}))[0] == 403


def test_without_a_key_the_digest_alone_opens() -> None:
    application = Application()
    guard = opened(application, {"PSR_GUARD_TOKEN": TOKEN})
    assert asyncio.run(call(guard, "/v1/completions", {"X-PSR-Model-Digest": DIGEST}))[0] == 200


def test_the_gate_counts_requests_that_are_inside() -> None:
    async def scenario() -> None:
        application = Application()
        guard = Guard(application, {"PSR_GUARD_TOKEN": TOKEN, "PSR_SERVER_KEY": KEY})
        await call(guard, "/psr/gate", SUPERVISOR, body={"digest": DIGEST, "open": True})
        application.hold = asyncio.Event()
        request = asyncio.create_task(call(guard, "/v1/completions", CLIENT))
        while not application.reached:
            await asyncio.sleep(0)
        closed = {"digest": "sha256:m2", "open": False}
        _, body, _ = await call(guard, "/psr/gate", SUPERVISOR, body=closed)
        assert body == {"digest": "sha256:m2", "open": False, "inside": 1}
        assert (await call(guard, "/v1/completions", CLIENT))[0] == 503
        application.hold.set()
        assert (await request)[0] == 200  # what was inside is answered
        assert (await call(guard, "/psr/gate", SUPERVISOR, verb="GET"))[1]["inside"] == 0

    asyncio.run(scenario())


@pytest.mark.parametrize("body", [None, [], {"digest": DIGEST}, {"digest": 1, "open": True}, {"digest": "", "open": 1}])
def test_a_broken_order_to_the_gate_moves_nothing(body: Any) -> None:
    guard = opened(Application())
    assert asyncio.run(call(guard, "/psr/gate", SUPERVISOR, body=body))[0] == 400
    assert asyncio.run(call(guard, "/psr/gate", SUPERVISOR, verb="GET"))[1]["digest"] == DIGEST


def test_websockets_are_refused_and_the_lifespan_of_the_application_passes() -> None:
    application = Application()
    guard = opened(application)
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "websocket", "path": "/v1/realtime", "headers": []}
    asyncio.run(guard(scope, None, send))  # type: ignore[arg-type]
    assert sent == [{"type": "websocket.close", "code": 1008}]
    asyncio.run(guard({"type": "lifespan"}, None, send))  # type: ignore[arg-type]
    assert application.reached == ["lifespan"]
