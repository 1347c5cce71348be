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
import resource as limits
import signal
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from psr_operator.api import GROUP, KINDS, VERSION, PolicyServer
from psr_operator.backends import load_all
from psr_operator.controller import kopf_adapter
from psr_operator.controller.client import Client, NoCredentials, Refused, Unreachable
from psr_operator.controller.informer import Informer
from psr_operator.controller.lease import Lease, LeaseLost, Times
from psr_operator.controller.metrics import Metrics, serve
from psr_operator.controller.namespaces import CLOSED, Namespaces
from psr_operator.controller.paths import group_version
from psr_operator.controller.prober import Intervals, Prober
from psr_operator.controller.reconciler import OBSTACLE_SECONDS, RESTORE_SECONDS, Reconciler
from psr_operator.controller.store import Store
from psr_operator.controller.workqueue import MOST_OF_A_NAMESPACE, Key, WorkQueue
from psr_operator.controller.writer import Writer
from psr_operator.render import Settings
from psr_runtime.protocol import ExitCode

log = logging.getLogger(__name__)

WORKERS = 2 * MOST_OF_A_NAMESPACE
EXIT_LOST = 70
"""Exit code on the loss of the lease."""


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
    intervals: Intervals = field(default_factory=Intervals)
    resync_seconds: float = 600.0
    port: int = 8080


def run(options: Options) -> int:
    """Run until SIGTERM or SIGINT, or until the lease is lost. Returns the exit code."""
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
    )
    kopf_adapter.quieten()
    _open_many_files()
    gc.freeze()  # what is imported stays, so the collector looks at the rest only, and sooner
    try:
        return asyncio.run(Process(options).run())
    except NoCredentials as error:
        print(f"psr operator: {error}", file=sys.stderr)
        return ExitCode.CONFIGURATION_ERROR


def _open_many_files() -> None:
    """A watch is a connection, and there is one a kind and namespace: take as many as this process may have."""
    _, most = limits.getrlimit(limits.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        limits.setrlimit(limits.RLIMIT_NOFILE, (most, most))


class Process:
    """One replica."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.metrics = Metrics()
        self.store = Store()
        self.queue = WorkQueue(time.monotonic)
        self._stop = asyncio.Event()
        self._reached = asyncio.Event()

    async def run(self) -> int:
        options = self.options
        client = Client(kopf_adapter.login_from(options.kubeconfig))
        lease = Lease(client, options.namespace, options.lease, options.identity, options.times)
        client.on_write = lambda verb: self.metrics.writes.labels(verb).inc()
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
        warned = False
        while True:
            try:
                served = await client.get(group_version(f"{GROUP}/{VERSION}"))
                self._reached.set()  # a replica that cannot talk to the apiserver is ready for nothing
                names = {item["name"] for item in (served or {}).get("resources", ())}
                missing = {kind.plural for kind in KINDS.values()} - names
                if not missing:
                    break
                if not warned:
                    log.warning(
                        "waiting for the CustomResourceDefinitions of %s: %s", GROUP, ", ".join(sorted(missing))
                    )
                    warned = True
            except (Refused, Unreachable) as error:
                log.warning("%s", error)
            await asyncio.sleep(1.0)
        await lease.acquire()

    async def _work(self, client: Client) -> None:
        """kopf, the workers, the questions to pods, the search for what vanished: until cancelled or one fails."""
        options = self.options
        prober = Prober(
            client,
            self.store,
            self.queue,
            time.monotonic,
            self._server_of,
            progress_port=options.settings.progress_port,
            intervals=options.intervals,
        )
        informer = Informer(client, self.store, self.queue, prober, load_all())
        writer = Writer(client, self.store, options.settings, informer.changed)
        reconciler = Reconciler(
            client,
            self.store,
            writer,
            prober,
            informer,
            on_child=self._on_child,
            obstacle_seconds=min(OBSTACLE_SECONDS, options.resync_seconds),
            restore_seconds=min(RESTORE_SECONDS, options.resync_seconds),
        )
        await self._find_backends(informer)
        namespaces = Namespaces(
            list(options.namespaces) or [None],
            informer,
            self.metrics,
            lambda name: kopf_adapter.watch(
                client, informer, identity=options.identity, namespace=name, on_start=self._take_signals
            ),
            options.resync_seconds,
        )
        tasks = [
            asyncio.create_task(namespaces.run(), name="namespaces"),
            asyncio.create_task(prober.run(), name="prober"),
            *(
                asyncio.create_task(self._worker(reconciler, namespaces), name=f"worker-{number}")
                for number in range(WORKERS)
            ),
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

    def _take_signals(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._stop.set)

    async def _worker(self, reconciler: Reconciler, namespaces: Namespaces) -> None:
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
                if isinstance(error, Refused) and error.code in CLOSED:
                    namespaces.doubt(key.namespace)
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

    def _on_child(self, key: Key) -> None:
        """A child or Workload was created: how long ago that had happened for which it was created."""
        self.metrics.child_delay.observe(time.monotonic() - self.queue.since(key))

    async def _find_backends(self, informer: Informer) -> None:
        """Ask which back ends' kinds there are; an apiserver that has just begun may refuse for a while."""
        while True:
            try:
                await informer.find_backends()
                return
            except (Refused, Unreachable) as error:
                log.warning("the kinds of this cluster cannot be listed now: %s", error)
                await asyncio.sleep(1.0)

    def _server_of(self, uid: str) -> PolicyServer | None:
        key = self.store.key_of_uid(uid)
        with contextlib.suppress(ValueError):
            resource = self.store.resource(key) if key is not None else None
            return resource if isinstance(resource, PolicyServer) else None
        return None
