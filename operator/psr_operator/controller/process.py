"""The operator's process: login, lease, kopf, workers, and a clean end.

A replica waits for the lease with nothing but its health endpoint. The one that holds it runs kopf and the workers; on
the loss of the lease the process exits at once, for what it knows may be old and what it writes may be somebody else's.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import kopf
from kopf._core.engines.peering import Identity

from psr_operator.api import GROUP, PLURALS, VERSION, PolicyServer
from psr_operator.controller.apply import Writer
from psr_operator.controller.ask import Asker, Pace
from psr_operator.controller.cache import Cache
from psr_operator.controller.client import Client, Refused, Unreachable, login_from
from psr_operator.controller.lease import Lease, LeaseLost, Times
from psr_operator.controller.metrics import Metrics, serve
from psr_operator.controller.queue import Key, Queue
from psr_operator.controller.reconcile import OBSTACLE_SECONDS, Reconciler
from psr_operator.controller.watches import NoMemories, Watches, settings_for_watching
from psr_operator.render import Settings

log = logging.getLogger(__name__)

WORKERS = 16
EXIT_LOST = 70
"""Exit code on the loss of the lease."""
TEMPORARY = 75
TELLING_SECONDS = 10.0
"""Without an event for an object of the first list, after which what is left of it is looked for."""


@dataclass(frozen=True)
class Options:
    """How an operator runs.

    Attributes:
        namespaces: that it serves; empty for the whole cluster.
        namespace, lease: where its Lease stands and how it is called; replicas of one operator share it.
        identity: of this replica.
        resync_seconds: between two comparisons of what is known with lists of everything.
        port: of health and metrics.
    """

    settings: Settings
    kubeconfig: str | None = None
    namespaces: Sequence[str] = ()
    namespace: str = "psr-system"
    lease: str = "psr-operator"
    identity: str = field(default_factory=socket.gethostname)
    times: Times = field(default_factory=Times)
    pace: Pace = field(default_factory=Pace)
    resync_seconds: float = 600.0
    port: int = 8080


def run(options: Options) -> int:
    """Run until SIGTERM or SIGINT, or until the lease is lost. Returns the exit code."""
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
    )
    logging.getLogger("kopf").setLevel(logging.WARNING)
    gc.freeze()  # what is imported stays, so the collector looks at the rest only, and sooner
    try:
        return asyncio.run(Process(options).run())
    except kopf.LoginError as error:
        print(f"psr operator: {error}", file=sys.stderr)
        return 64


class Process:
    """One replica."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.metrics = Metrics()
        self.cache = Cache()
        self.queue = Queue(time.monotonic)
        self._stop = asyncio.Event()
        self._reached = asyncio.Event()

    async def run(self) -> int:
        options = self.options
        client = Client(login_from(options.kubeconfig))
        lease = Lease(client, options.namespace, options.lease, options.identity, options.times)
        client.written = lambda verb, _path: self.metrics.writes.labels(verb).inc()
        self._take_signals()
        try:
            async with serve(self.metrics, options.port, self._reached.is_set, lambda: True) as port:
                log.info("health and metrics on port %s", port)
                return await self._lead(client, lease)
        finally:
            await client.close()

    async def _lead(self, client: Client, lease: Lease) -> int:
        """Wait for the lease, work while it is held."""
        stop = asyncio.create_task(self._stop.wait())
        waiting = asyncio.create_task(self._acquire(client, lease))
        await asyncio.wait({stop, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            waiting.cancel()
            return 0
        await waiting
        log.info("%s leads", lease.identity)
        self.metrics.leader.set(1)
        client.may_write = lease.require
        keep = asyncio.create_task(lease.keep())
        work = asyncio.create_task(self._work(client))
        try:
            await asyncio.wait({stop, keep, work}, return_when=asyncio.FIRST_COMPLETED)
            for task in (keep, work):
                if task.done():
                    task.result()
            return 0
        except LeaseLost as lost:
            log.error("%s; ending", lost)
            os._exit(EXIT_LOST)  # nothing of what is under way may go on
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
            keep.cancel()
            await asyncio.gather(keep, return_exceptions=True)
            client.may_write = lambda: None
            await lease.release()

    async def _acquire(self, client: Client, lease: Lease) -> None:
        """Wait for our kinds to be served, then for the lease: kopf looks at discovery only once."""
        told = False
        while True:
            try:
                found = await client.get(f"/apis/{GROUP}/{VERSION}")
                self._reached.set()  # a replica that cannot talk to the apiserver is ready for nothing
                missing = set(PLURALS.values()) - {item["name"] for item in (found or {}).get("resources", ())}
                if not missing:
                    break
                if not told:
                    log.warning(
                        "waiting for the CustomResourceDefinitions of %s: %s", GROUP, ", ".join(sorted(missing))
                    )
                    told = True
            except (Refused, Unreachable) as error:
                log.warning("%s", error)
            await asyncio.sleep(1.0)
        await lease.acquire()

    async def _work(self, client: Client) -> None:
        """kopf, the workers, the questions to pods, the search for what vanished: until cancelled or one fails."""
        options = self.options
        asker = Asker(
            client,
            self.cache,
            self.queue,
            time.monotonic,
            self._server_of,
            progress_port=options.settings.progress_port,
            pace=options.pace,
        )
        watches = Watches(client, self.cache, self.queue, asker)
        writer = Writer(client, self.cache, options.settings, watches.noted)
        patience = min(OBSTACLE_SECONDS, options.resync_seconds)
        reconciler = Reconciler(
            client, self.cache, self.queue, writer, asker, made=self._made, obstacle_seconds=patience
        )
        await self._list_everything(watches)
        registry = kopf.OperatorRegistry()
        watches.register(registry, client.credentials)
        tasks = [
            asyncio.create_task(self._watch(registry), name="kopf"),
            asyncio.create_task(asker.run(), name="questions"),
            asyncio.create_task(self._look_for_vanished(watches), name="vanished"),
            *(asyncio.create_task(self._worker(reconciler), name=f"worker-{number}") for number in range(WORKERS)),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            raise RuntimeError(f"{', '.join(task.get_name() for task in done)} ended")
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _watch(self, registry: kopf.OperatorRegistry) -> None:
        ours = asyncio.all_tasks()
        tasks = await kopf.spawn_tasks(
            registry=registry,
            settings=settings_for_watching(),
            memories=NoMemories(),
            identity=Identity(self.options.identity),  # else it asks for the user's name, which a pod has none of
            standalone=True,
            clusterwide=not self.options.namespaces,
            namespaces=list(self.options.namespaces),
            stop_flag=asyncio.Event(),
        )
        self._take_signals()  # kopf has taken them over
        await kopf.run_tasks(tasks, ignored=ours)

    def _take_signals(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._stop.set)

    async def _worker(self, reconciler: Reconciler) -> None:
        while True:
            key = await self.queue.take()
            taken = time.monotonic()
            failed, again = False, None
            try:
                again = await reconciler.reconcile(key)
            except (LeaseLost, asyncio.CancelledError):
                raise
            except (Refused, Unreachable) as error:
                failed = True
                if not (isinstance(error, Refused) and error.code == 409):
                    log.warning("%s/%s %s: %s", key.kind, key.namespace, key.name, error)
            except Exception:
                failed = True
                log.exception("%s %s/%s", key.kind, key.namespace, key.name)
            self.metrics.reconcile.observe(time.monotonic() - taken)
            if failed:
                self.metrics.failures.labels(key.kind).inc()
            self.queue.done(key, failed=failed)
            if again is not None:
                self.queue.add(key, again, planned=True)
            self.metrics.queue.set(len(self.queue))

    def _made(self, key: Key) -> None:
        """A child was made: how long ago that had happened for which it was made."""
        self.metrics.child_delay.observe(time.monotonic() - self.queue.since(key))

    async def _list_everything(self, watches: Watches) -> None:
        """Take in what exists; an apiserver that has just begun may refuse for a while."""
        while True:
            try:
                await watches.list_everything(self._namespaces())
                self._count_objects()
                return
            except (Refused, Unreachable) as error:
                log.warning("what exists cannot be listed now: %s", error)
                await asyncio.sleep(1.0)

    async def _look_for_vanished(self, watches: Watches) -> None:
        """Compare what is known with lists of everything: soon, for what went before kopf watched, then regularly."""
        pause = min(TELLING_SECONDS, self.options.resync_seconds)
        while watches.untold:
            left = len(watches.untold)
            await asyncio.sleep(pause)
            if len(watches.untold) == left:
                await self._compare(watches)
                pause = min(2 * pause, self.options.resync_seconds)
        while True:
            await asyncio.sleep(self.options.resync_seconds)
            await self._compare(watches)

    async def _compare(self, watches: Watches) -> None:
        self._count_objects()
        try:
            count = await watches.look_for_vanished(self._namespaces())
        except (Refused, Unreachable) as error:
            log.warning("what vanished cannot be looked for now: %s", error)
            return
        if count:
            log.info("%d objects had gone without a word", count)
            self.metrics.vanished.inc(count)

    def _namespaces(self) -> list[str | None]:
        return list(self.options.namespaces) or [None]

    def _count_objects(self) -> None:
        for kind in PLURALS:
            self.metrics.objects.labels(kind).set(len(self.cache.of_kind(kind)))

    def _server_of(self, uid: str) -> PolicyServer | None:
        key = self.cache.key_of_uid(uid)
        with contextlib.suppress(ValueError):
            found = self.cache.resource(key) if key is not None else None
            return found if isinstance(found, PolicyServer) else None
        return None
