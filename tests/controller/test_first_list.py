"""Before kopf watches, everything is listed: nobody looks at an object without its Jobs, and nothing is missed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from psr_operator.controller.apply import collection_of
from psr_operator.controller.ask import Asker
from psr_operator.controller.cache import Cache, key_of
from psr_operator.controller.queue import Queue
from psr_operator.controller.watches import Watches
from tests.controller.test_cache import job, training


class Lists:
    """A client that only lists."""

    def __init__(self) -> None:
        self.objects: dict[str, list[dict[str, Any]]] = {}

    async def items(self, path: str, selector: str | None = None) -> AsyncIterator[dict[str, Any]]:
        for item in self.objects.get(path, []):
            yield item


def watching(lists: Lists) -> Watches:
    client: Any = lists
    cache, queue = Cache(), Queue(lambda: 0.0)
    return Watches(client, cache, queue, Asker(client, cache, queue, lambda: 0.0, lambda _: None))


def test_what_went_between_the_first_list_and_the_watch_is_found() -> None:
    """No watch tells of it: kopf's begins after it had gone."""
    lists, stays, goes = Lists(), training(1), training(2)
    path = collection_of("StepDPOJob", None)
    lists.objects[path] = [stays, goes]
    watches = watching(lists)
    asyncio.run(watches.list_everything([None]))
    assert watches.untold == {stays["metadata"]["uid"], goes["metadata"]["uid"]}
    lists.objects[path] = [stays]
    watches.ours(stays, gone=False)  # kopf's own list
    assert watches.untold == {goes["metadata"]["uid"]}
    assert asyncio.run(watches.look_for_vanished([None])) == 1
    assert watches.untold == set()
    assert watches.cache.get(key_of(goes)) is None


def test_what_kopf_lists_and_is_known_already_is_not_looked_at_again() -> None:
    lists, raw = Lists(), training(1)
    lists.objects[collection_of("StepDPOJob", None)] = [raw]
    watches = watching(lists)
    asyncio.run(watches.list_everything([None]))
    facts = job(raw["metadata"]["uid"])
    watches.foreign("Job", facts, gone=False, listed=True)
    key = asyncio.run(taken(watches.queue))
    assert key == key_of(raw)
    watches.ours(raw, gone=False)
    watches.foreign("Job", facts, gone=False, listed=True)
    assert len(watches.queue) == 0


async def taken(queue: Queue) -> Any:
    queue.clock = lambda: 1.0
    key = await queue.take()
    queue.done(key)
    return key
