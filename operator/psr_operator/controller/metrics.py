"""What can be seen of an operator from outside: `/healthz`, `/readyz` and `/metrics` on one port of its own.

kopf's own endpoint is no help: a replica that waits for the lease has no kopf yet.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from psr_runtime.protocol.addresses import listening

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """The figures of one operator."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.reconcile = Histogram(
            "psr_reconcile_seconds", "Seconds of one reconciliation", registry=self.registry, buckets=SECONDS
        )
        self.child_delay = Histogram(
            "psr_child_delay_seconds",
            "Seconds from an event to the child that was created because of it",
            registry=self.registry,
            buckets=SECONDS,
        )
        self.failures = Counter(
            "psr_reconcile_failures", "Reconciliations that failed and are repeated", ["kind"], registry=self.registry
        )
        self.writes = Counter("psr_api_writes", "Requests that write, by verb", ["verb"], registry=self.registry)
        self.queue = Gauge("psr_queue_length", "Objects that wait to be reconciled", registry=self.registry)
        self.leader = Gauge("psr_leader", "1 while this replica leads", registry=self.registry)
        self.objects = Gauge("psr_objects", "Objects known, by kind", ["kind"], registry=self.registry)
        self.answers = Gauge(
            "psr_namespace_answers",
            "1 while a namespace is served, 0 while it is skipped since it is gone or forbidden",
            ["namespace"],
            registry=self.registry,
        )
        self.vanished = Counter("psr_vanished_objects", "Objects that went without an event", registry=self.registry)


@contextlib.asynccontextmanager
async def serve(
    metrics: Metrics, port: int, ready: Callable[[], bool], alive: Callable[[], bool]
) -> AsyncIterator[int]:
    """Serve until the block ends.

    Args:
        port: 0 for any free one.
        ready, alive: what `/readyz` and `/healthz` say.

    Yields:
        The port.
    """

    def answer(good: bool) -> web.Response:
        return web.Response(text="ok\n" if good else "no\n", status=200 if good else 503)

    async def healthz(_: web.Request) -> web.Response:
        return answer(alive())

    async def readyz(_: web.Request) -> web.Response:
        return answer(ready())

    async def figures(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(metrics.registry), content_type="text/plain")

    app = web.Application()
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", figures)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    listener = listening("::", port)
    await web.SockSite(runner, listener).start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        await runner.cleanup()
