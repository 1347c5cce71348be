"""The namespaces that are served, each by itself: listed, watched, and compared with its lists from time to time.

A namespace may be deleted, or take the operator's rights away, while others are at work. It is skipped then, which is
said once and shown in a metric, and taken in again as soon as it answers.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from psr_operator.api import KINDS
from psr_operator.controller.client import Refused, Unreachable
from psr_operator.controller.informer import Informer
from psr_operator.controller.metrics import Metrics

log = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds between two tries of a namespace that does not answer: the first pause, doubled up to the longest."""
STEADY_SECONDS = 60.0
"""A watch that lasted this long was a good one: the next pause is the first again."""
CONFIRMING_SECONDS = 10.0
"""Without an event for an object of the first list, after which the rest of it is compared with the apiserver."""
CLOSED = (403, 404)
"""HTTP statuses of a namespace that is gone or forbidden."""


@dataclass
class Namespaces:
    """Serves namespaces.

    Attributes:
        names: None for the whole cluster.
        watch: watches one of them until it is cancelled or fails.
        resync_seconds: between two comparisons of what is known with lists of everything.
        sleep: waits.
    """

    names: Sequence[str | None]
    informer: Informer
    metrics: Metrics
    watch: Callable[[str | None], Awaitable[None]]
    resync_seconds: float
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    _skipped: set[str | None] = field(default_factory=set)
    _doubts: dict[str | None, asyncio.Event] = field(default_factory=dict)

    def doubt(self, namespace: str) -> None:
        """A request there was refused as if the namespace were gone or forbidden: have it listed soon."""
        for name in (namespace, None):
            if name in self._doubts:
                self._doubts[name].set()

    async def run(self) -> None:
        """Serve them all until cancelled."""
        async with asyncio.TaskGroup() as group:
            for name in self.names:
                group.create_task(self._serve(name), name=f"namespace {name or '*'}")

    async def _serve(self, name: str | None) -> None:
        """List, watch, compare; again from the start whenever that fails."""
        loop, pause = asyncio.get_running_loop(), FIRST_PAUSE
        ended: Exception | None = None
        while True:
            began, listed = loop.time(), False
            try:
                await self.informer.take_in(name)
                listed = True
                self._take_in(name, ended)
                await self._watch_and_compare(name)
            except Refused as refused:
                if refused.code in CLOSED:
                    self._skip(name, refused)
                else:
                    log.warning("%s cannot be listed now: %s", _called(name), refused)
                ended = None
            except Unreachable as error:
                log.warning("%s cannot be listed now: %s", _called(name), error)
                ended = None
            except Exception as error:  # of kopf; the next list says whether the namespace is to be skipped
                if not listed:
                    log.exception("%s cannot be listed", _called(name))
                ended = error
            pause = FIRST_PAUSE if loop.time() - began > STEADY_SECONDS else min(2 * pause, LONGEST_PAUSE)
            await self.sleep(pause)

    def _take_in(self, name: str | None, ended: Exception | None) -> None:
        if name in self._skipped:
            self._skipped.discard(name)
            log.info("%s answers again and is served", _called(name))
        elif ended is not None:
            log.warning("the watches of %s ended and begin anew: %r", _called(name), ended)
        self.metrics.answers.labels(name or "").set(1)
        self._count_objects()

    def _skip(self, name: str | None, refused: Refused) -> None:
        """Leave a namespace alone, and what is known of it: others go on."""
        self.informer.forget(name)
        self.metrics.answers.labels(name or "").set(0)
        self._count_objects()
        if name not in self._skipped:
            self._skipped.add(name)
            log.warning("%s is skipped until it answers again: %s", _called(name), refused)

    async def _watch_and_compare(self, name: str | None) -> None:
        """Watch, and compare what is known with lists: soon, for what went before the watch began, then regularly.

        Raises:
            Exception: that ended the watch, or a list that was refused as the namespace is gone or forbidden.
        """
        doubt = self._doubts[name] = asyncio.Event()
        watch, doubted = asyncio.ensure_future(self.watch(name)), asyncio.create_task(doubt.wait())
        compared, pause = -CONFIRMING_SECONDS, min(CONFIRMING_SECONDS, self.resync_seconds)
        try:
            while True:
                left = len(self.informer.unconfirmed)
                await asyncio.wait(
                    {watch, doubted},
                    timeout=pause if left else self.resync_seconds,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if watch.done():
                    await watch
                    return
                if doubted.done():
                    await self.sleep(max(0.0, compared + CONFIRMING_SECONDS - asyncio.get_running_loop().time()))
                    doubt.clear()
                    doubted = asyncio.create_task(doubt.wait())
                elif len(self.informer.unconfirmed) < left:
                    continue  # events still tell of what was listed
                await self._compare(name)
                compared = asyncio.get_running_loop().time()
                pause = min(2 * pause, self.resync_seconds)
        finally:
            for task in (watch, doubted):
                task.cancel()
            await asyncio.gather(watch, doubted, return_exceptions=True)
            del self._doubts[name]

    async def _compare(self, name: str | None) -> None:
        self._count_objects()
        try:
            count = await self.informer.find_vanished(name)
        except (Refused, Unreachable) as error:
            if isinstance(error, Refused) and error.code in CLOSED:
                raise
            log.warning("what vanished of %s cannot be found now: %s", _called(name), error)
            return
        if count:
            log.info("%d objects of %s had gone without an event", count, _called(name))
            self.metrics.vanished.inc(count)

    def _count_objects(self) -> None:
        for kind in KINDS:
            self.metrics.objects.labels(kind).set(len(self.informer.store.of_kind(kind)))


def _called(name: str | None) -> str:
    return f"namespace {name}" if name is not None else "the cluster"
