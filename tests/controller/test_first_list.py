"""Before kopf watches, everything is listed: nobody looks at an object without its Jobs, and nothing is missed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from harness.control_plane.paths import collection_of
from psr_operator.backends import load_all
from psr_operator.backends.job import JOB
from psr_operator.controller.informer import Informer
from psr_operator.controller.prober import Prober
from psr_operator.controller.store import Store, key_of
from psr_operator.controller.workqueue import WorkQueue
from tests.controller.test_store import raw_job, training


class Lists:
    """A client that only lists. `kinds`: what the apiserver serves in `batch/v1`."""

    kinds: tuple[str, ...] = ("cronjobs", "jobs")

    def __init__(self) -> None:
        self.objects: dict[str, list[dict[str, Any]]] = {}

    async def get(self, path: str) -> dict[str, Any] | None:
        return {"resources": [{"name": name} for name in self.kinds]} if path == "/apis/batch/v1" else None

    async def items(self, path: str, selector: str | None = None) -> AsyncIterator[dict[str, Any]]:
        for item in self.objects.get(path, []):
            yield item


def watching(lists: Lists) -> Informer:
    client: Any = lists
    store, queue = Store(), WorkQueue(lambda: 0.0)
    return Informer(client, store, queue, Prober(client, store, queue, lambda: 0.0, lambda _: None), load_all())


def test_what_went_between_the_first_list_and_the_watch_is_found() -> None:
    """No watch tells of it: kopf's begins after it had gone."""
    lists, stays, goes = Lists(), training(1), training(2)
    path = collection_of("StepDPOJob", None)
    lists.objects[path] = [stays, goes]
    informer = watching(lists)
    asyncio.run(informer.take_in(None))
    assert informer.unconfirmed == {stays["metadata"]["uid"], goes["metadata"]["uid"]}
    lists.objects[path] = [stays]
    informer.own(stays, gone=False)  # kopf's own list
    assert informer.unconfirmed == {goes["metadata"]["uid"]}
    assert asyncio.run(informer.find_vanished(None)) == 1
    assert informer.unconfirmed == set()
    assert informer.store.get(key_of(goes)) is None


def test_what_kopf_lists_and_is_known_already_is_not_looked_at_again() -> None:
    lists, raw = Lists(), training(1)
    lists.objects[collection_of("StepDPOJob", None)] = [raw]
    informer = watching(lists)
    asyncio.run(informer.take_in(None))
    (jobs,) = [of for of in informer.dependents() if of.kind == JOB]
    listed = raw_job(raw["metadata"]["uid"])
    informer.dependent(jobs, listed, gone=False, listed=True)
    key = asyncio.run(taken(informer.queue))
    assert key == key_of(raw)
    informer.own(raw, gone=False)
    informer.dependent(jobs, listed, gone=False, listed=True)
    assert len(informer.queue) == 0


def test_a_back_end_whose_kinds_the_cluster_does_not_have_is_left_out() -> None:
    """Else the first list would fail, and with it the whole operator."""
    lists = Lists()
    informer = watching(lists)
    asyncio.run(informer.find_backends())
    assert JOB in [of.kind for of in informer.dependents()]
    lists.kinds = ("cronjobs",)
    asyncio.run(informer.find_backends())
    assert [of.kind.kind for of in informer.dependents()] == ["Deployment", "Pod"]


async def taken(queue: WorkQueue) -> Any:
    queue.clock = lambda: 1.0
    key = await queue.take()
    queue.done(key)
    return key


def test_an_object_that_cannot_be_read_stops_no_other(caplog: pytest.LogCaptureFixture) -> None:
    lists, raw = Lists(), training(1)
    good = raw_job(raw["metadata"]["uid"])
    odd = {**good, "metadata": {**good["metadata"], "name": "odd", "uid": "uid-odd"}, "spec": {"completions": "many"}}
    lists.objects[collection_of("StepDPOJob", None)] = [raw]
    lists.objects[collection_of(JOB, None)] = [odd, good]
    informer = watching(lists)
    for _ in range(2):
        asyncio.run(informer.take_in(None))
    assert set(informer.store.workloads.by_uid) == {good["metadata"]["uid"]}
    assert caplog.text.count("odd is left out") == 1
