"""Which object is reconciled next: each key at most once at a time, at its time, after errors with growing pauses."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

MOST_OF_A_NAMESPACE = 16
"""Keys of one namespace that are given out at a time: where each takes long, as a webhook is silent, others go on."""
FIRST_PAUSE = 0.2
LONGEST_PAUSE = 60.0


class Key(NamedTuple):
    """An object of ours."""

    kind: str
    namespace: str
    name: str


@dataclass
class WorkQueue:
    """A set of keys, each with the time at which it is to be reconciled.

    A key that is added again before it is taken keeps the earlier time; one that is added while it is worked on is
    taken again afterwards. So however many events arrive for an object, it is reconciled once.

    Attributes:
        clock: monotonic seconds.
    """

    clock: Callable[[], float]
    _times: dict[Key, float] = field(default_factory=dict)
    _heap: list[tuple[float, int, Key]] = field(default_factory=list)
    _active: set[Key] = field(default_factory=set)
    _held: dict[str, list[Key]] = field(default_factory=dict)
    _since: dict[Key, float] = field(default_factory=dict)
    _active_since: dict[Key, float] = field(default_factory=dict)
    _failures: dict[Key, int] = field(default_factory=dict)
    _order: itertools.count[int] = field(default_factory=itertools.count)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def __len__(self) -> int:
        """Keys that wait, those whose time has not come included."""
        return len(self._times)

    def add(self, key: Key, after: float = 0.0, *, planned: bool = False) -> None:
        """Have a key reconciled, `after` seconds from now at the latest.

        Args:
            planned: whether nothing has happened, and its time only comes then.
        """
        now = self.clock()
        time = now + after
        self._since[key] = min(self._since.get(key, float("inf")), time if planned else now)
        if self._times.get(key, float("inf")) <= time:
            return
        self._times[key] = time
        if key not in self._active:
            self._push(time, key)

    async def take(self) -> Key:
        """The next key whose time has come; it is not given out again until `done`."""
        while True:
            now = self.clock()
            while self._heap:
                time, _, key = self._heap[0]
                if key in self._active or self._times.get(key) != time:
                    heapq.heappop(self._heap)  # taken, or moved to an earlier time
                    continue
                if time > now:
                    break
                heapq.heappop(self._heap)
                if self._is_full(key.namespace):
                    self._held.setdefault(key.namespace, []).append(key)
                    continue
                del self._times[key]
                self._active.add(key)
                self._active_since[key] = self._since.pop(key, now)
                return key
            self._changed.clear()
            pause = self._heap[0][0] - now if self._heap else None
            try:
                await asyncio.wait_for(self._changed.wait(), pause)
            except TimeoutError:
                continue

    def since(self, key: Key) -> float:
        """When that happened for which a key is being reconciled."""
        return self._active_since.get(key, self.clock())

    def done(self, key: Key, *, failed: bool = False) -> float:
        """A key was reconciled. After a failure it comes again, later each time.

        Returns:
            The pause after a failure, else 0.
        """
        self._active.discard(key)
        for other in self._held.pop(key.namespace, ()):
            if other in self._times:
                self._push(self._times[other], other)
        self._active_since.pop(key, None)
        pause = 0.0
        if failed:
            count = self._failures[key] = self._failures.get(key, 0) + 1
            pause = min(FIRST_PAUSE * 2.0 ** (count - 1), LONGEST_PAUSE)
            # What arrived meanwhile must not shorten the pause: an object that fails at every event would spin.
            self._times[key] = self.clock() + pause
        else:
            self._failures.pop(key, None)
        if key in self._times:
            self._push(self._times[key], key)
        return pause

    def forget(self, key: Key) -> None:
        """The object is gone."""
        for index in (self._times, self._since, self._failures):
            index.pop(key, None)

    def _is_full(self, namespace: str) -> bool:
        """Whether as many keys of a namespace are being reconciled as may be."""
        return sum(key.namespace == namespace for key in self._active) >= MOST_OF_A_NAMESPACE

    def _push(self, time: float, key: Key) -> None:
        heapq.heappush(self._heap, (time, next(self._order), key))
        self._changed.set()
