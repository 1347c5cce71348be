"""Which object is looked at next: each key at most once at a time, when it is due, after errors with growing pauses."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

FIRST_PAUSE = 0.2
LONGEST_PAUSE = 60.0


class Key(NamedTuple):
    """An object of ours."""

    kind: str
    namespace: str
    name: str


@dataclass
class Queue:
    """A set of keys, each with the time at which it is due.

    A key that is added again before it is taken keeps the earlier time; one that is added while it is worked on is
    taken again afterwards. So however many events arrive for an object, it is looked at once.

    Attributes:
        clock: monotonic seconds.
    """

    clock: Callable[[], float]
    _due: dict[Key, float] = field(default_factory=dict)
    _heap: list[tuple[float, int, Key]] = field(default_factory=list)
    _active: set[Key] = field(default_factory=set)
    _since: dict[Key, float] = field(default_factory=dict)
    _looked_at_since: dict[Key, float] = field(default_factory=dict)
    _failures: dict[Key, int] = field(default_factory=dict)
    _order: itertools.count[int] = field(default_factory=itertools.count)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def __len__(self) -> int:
        """Keys that are due now or later."""
        return len(self._due)

    def add(self, key: Key, after: float = 0.0, *, planned: bool = False) -> None:
        """Have a key looked at, `after` seconds from now at the latest.

        Args:
            planned: whether nothing has happened, and it is only to be looked at then.
        """
        now = self.clock()
        due = now + after
        self._since[key] = min(self._since.get(key, float("inf")), due if planned else now)
        if self._due.get(key, float("inf")) <= due:
            return
        self._due[key] = due
        if key not in self._active:
            self._push(due, key)

    async def take(self) -> Key:
        """The next key that is due; it is not given out again until `done`."""
        while True:
            now = self.clock()
            while self._heap:
                due, _, key = self._heap[0]
                if key in self._active or self._due.get(key) != due:
                    heapq.heappop(self._heap)  # taken, or moved to an earlier time
                    continue
                if due > now:
                    break
                heapq.heappop(self._heap)
                del self._due[key]
                self._active.add(key)
                self._looked_at_since[key] = self._since.pop(key, now)
                return key
            self._changed.clear()
            pause = self._heap[0][0] - now if self._heap else None
            try:
                await asyncio.wait_for(self._changed.wait(), pause)
            except TimeoutError:
                continue

    def since(self, key: Key) -> float:
        """When that happened for which a key is being looked at."""
        return self._looked_at_since.get(key, self.clock())

    def done(self, key: Key, *, failed: bool = False) -> float:
        """A key was looked at. After a failure it comes again, later each time.

        Returns:
            The pause after a failure, else 0.
        """
        self._active.discard(key)
        self._looked_at_since.pop(key, None)
        pause = 0.0
        if failed:
            count = self._failures[key] = self._failures.get(key, 0) + 1
            pause = min(FIRST_PAUSE * 2.0 ** (count - 1), LONGEST_PAUSE)
            # What arrived meanwhile must not shorten the pause: an object that fails at every event would spin.
            self._due[key] = self.clock() + pause
        else:
            self._failures.pop(key, None)
        if key in self._due:
            self._push(self._due[key], key)
        return pause

    def forget(self, key: Key) -> None:
        """The object is gone."""
        for known in (self._due, self._since, self._failures):
            known.pop(key, None)

    def _push(self, due: float, key: Key) -> None:
        heapq.heappush(self._heap, (due, next(self._order), key))
        self._changed.set()
