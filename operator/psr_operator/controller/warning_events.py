"""What Kubernetes says of objects of ours only in Events: pods that cannot be made, volumes that cannot be mounted.

Events are not watched: there are too many. They are listed for an object that does not get on and gives no reason, soon
at first and then more seldom.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from psr_operator.controller.client import Client, Refused, Unreachable
from psr_operator.controller.paths import collection_of

log = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 2.0, 60.0
"""Seconds until Events are read for the first time, doubled each time up to the longest pause."""


@dataclass
class WarningEvents:
    """The last warnings of objects that give no reason themselves.

    Attributes:
        clock: monotonic seconds.
        said: the warnings, by uid.
    """

    client: Client
    clock: Callable[[], float]
    said: dict[str, str] = field(default_factory=dict)
    _next: dict[str, tuple[float, float]] = field(default_factory=dict)
    _of: dict[str, frozenset[str]] = field(default_factory=dict)

    async def ask(self, owner: str, namespace: str, silent: Collection[str]) -> float | None:
        """Read the Events of what is silent, where it is time.

        Args:
            owner: uid of the object of ours that it belongs to.
            silent: uids of all that gives no reason now; what is known of others of this owner is forgotten.

        Returns:
            Seconds after which to ask again, None where nothing is silent.
        """
        self.forget(owner, but=silent)
        if not silent:
            return None
        now = self.clock()
        self._forget_old(now)
        self._of[owner] = frozenset(silent)
        for uid in sorted(silent):
            time, pause = self._next.setdefault(uid, (now + FIRST_PAUSE, FIRST_PAUSE))
            if now >= time:
                pause = min(2 * pause, LONGEST_PAUSE)
                self._next[uid] = (now + pause, pause)
                await self._read(namespace, uid)
        return max(0.1, min(self._next[uid][0] for uid in silent) - self.clock())

    def forget(self, owner: str, but: Collection[str] = ()) -> None:
        """Forget what was said of an object's own, except of some."""
        for uid in self._of.pop(owner, frozenset()) - set(but):
            self.said.pop(uid, None)
            self._next.pop(uid, None)

    def _forget_old(self, now: float) -> None:
        """Forget what nobody asks for any more: its object is gone."""
        for uid in [uid for uid, (time, _) in self._next.items() if now - time > 10 * LONGEST_PAUSE]:
            self._next.pop(uid)
            self.said.pop(uid, None)
        for owner in [owner for owner, uids in self._of.items() if not uids & self._next.keys() and uids]:
            del self._of[owner]

    async def _read(self, namespace: str, uid: str) -> None:
        """Take in the last Event of an object: a warning, unless something better has happened since."""
        path, fields = collection_of("Event", namespace), f"involvedObject.uid={uid}"
        try:
            events = [item async for item in self.client.items(path, fields=fields)]
        except (Refused, Unreachable) as error:
            log.info("events of %s cannot be read now: %s", namespace, error)
            return
        last = max(events, key=_time, default=None)
        if last is not None and last.get("type") == "Warning":
            self.said[uid] = f"{last.get('reason', '')}: {last.get('message', '')}"
        else:
            self.said.pop(uid, None)


def _time(event: dict[str, Any]) -> str:
    """When an Event happened last, as text that sorts."""
    series = event.get("series") or {}
    times = (series.get("lastObservedTime"), event.get("lastTimestamp"), event.get("eventTime"))
    return max((str(time) for time in times if time), default=str(event["metadata"].get("creationTimestamp") or ""))
