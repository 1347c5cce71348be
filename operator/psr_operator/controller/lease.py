"""Who leads: one Lease, held by at most one replica. Whoever loses it ends; it never writes after its time is over.

The holder renews every 5 s and may write for 20 s after a renewal; others take over after 30 s without one. Both clocks
are monotonic and each replica's own: nobody's wall clock is believed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from psr_operator.controller.client import Client, Refused, Unreachable
from psr_operator.controller.paths import collection_of, object_path

log = logging.getLogger(__name__)


class LeaseLost(Exception):
    """This process must not write any more."""


@dataclass(frozen=True)
class Times:
    """Seconds: how long a lease lasts without renewal, how long its holder may write, how often it is renewed."""

    duration: float = 30.0
    deadline: float = 20.0
    period: float = 5.0

    @classmethod
    def of(cls, duration: float) -> Times:
        """The usual proportions for another duration."""
        return cls(duration, duration * 2 / 3, duration / 6)


class Lease:
    """A coordination.k8s.io Lease.

    Args:
        client: writes it.
        namespace, name: of the Lease.
        identity: of this replica. A process that comes again under the same name (a restarted container) takes its own
            lease up at once.
        clock: monotonic seconds.
        sleep: waits for seconds of that clock.
    """

    def __init__(
        self,
        client: Client,
        namespace: str,
        name: str,
        identity: str,
        times: Times,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._client = client
        self._collection = collection_of("Lease", namespace)
        self._path = object_path("Lease", namespace, name)
        self._name = name
        self.identity = identity
        self._times = times
        self._clock = clock
        self._sleep = sleep
        self._valid_until = float("-inf")
        self._seen: tuple[str, float] | None = None

    @property
    def held(self) -> bool:
        """Whether this process may write now."""
        return self._clock() < self._valid_until

    def require(self) -> None:
        """Pass only while the lease is held.

        Raises:
            LeaseLost: its time is over.
        """
        if not self.held:
            raise LeaseLost("the lease's time is over")

    async def acquire(self) -> None:
        """Wait until the lease is ours."""
        while not await self._try():
            await self._sleep(min(self._times.period, 2.0))

    async def keep(self) -> None:
        """Renew until the lease is lost.

        Raises:
            LeaseLost: somebody else holds it, or it could not be renewed in time.
        """
        while True:
            await self._sleep(self._times.period)
            if not await self._try():
                self.require()  # a passing error: try on while there is time

    async def release(self) -> None:
        """Let others take over at once."""
        if not self.held:
            return
        try:
            lease = await self._client.get(self._path)
            if lease is not None and lease["spec"].get("holderIdentity") == self.identity:
                lease["spec"] = {**lease["spec"], "holderIdentity": "", "leaseDurationSeconds": 1}
                await self._client.replace(self._path, lease)
        except (Refused, Unreachable) as error:
            log.info("the lease could not be released: %s", error)
        self._valid_until = float("-inf")

    async def _try(self) -> bool:
        """One attempt to take or renew the lease; whether it is ours now."""
        started = self._clock()
        try:
            lease = await self._client.get(self._path)
            if lease is None:
                spec = self._spec(None)
                await self._client.create(self._collection, {"metadata": {"name": self._name}, "spec": spec})
            else:
                holder = lease["spec"].get("holderIdentity")
                if holder not in ("", None, self.identity):
                    if self.held or self._valid_until > float("-inf"):
                        self._valid_until = float("-inf")
                        raise LeaseLost(f"{holder} holds the lease")
                    if not self._expired(lease):
                        return False
                lease["spec"] = self._spec(lease["spec"])
                await self._client.replace(self._path, lease)
        except Refused as refused:
            if refused.code not in (409, 429) and refused.code < 500 and not self.held:
                raise  # while it is held there is time: an apiserver that has just started knows no roles yet
            log.warning("the lease could not be renewed: %s", refused)
            return False
        except Unreachable as error:
            log.warning("the lease could not be renewed: %s", error)
            return False
        self._valid_until = started + self._times.deadline
        return True

    def _expired(self, lease: dict[str, Any]) -> bool:
        """Whether the lease has not been renewed for its duration, as long as we have looked."""
        version = lease["metadata"]["resourceVersion"]
        now = self._clock()
        if self._seen is None or self._seen[0] != version:
            self._seen = (version, now)
            return False
        return now - self._seen[1] > float(lease["spec"].get("leaseDurationSeconds") or 0)

    def _spec(self, before: dict[str, Any] | None) -> dict[str, Any]:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        ours = before is not None and before.get("holderIdentity") == self.identity
        changes = int((before or {}).get("leaseTransitions") or 0)
        return {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": max(1, round(self._times.duration)),
            "acquireTime": before["acquireTime"] if ours and before and before.get("acquireTime") else now,
            "renewTime": now,
            "leaseTransitions": changes if ours or before is None else changes + 1,
        }
