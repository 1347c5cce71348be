"""The lease against an apiserver in memory and a clock of the test's own: every way to get it, keep it and lose it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from psr_operator.controller.client import Refused, Unreachable
from psr_operator.controller.lease import Lease, LeaseLost, Times
from psr_operator.controller.paths import object_path
from tests.controller.memory_apiserver import MemoryClient, Request, refuse

PATH = object_path("Lease", "psr-system", "psr-operator")
TIMES = Times()  # lasts 30 s, may write for 20 s, renews every 5 s


class Clock:
    """Seconds that pass when somebody sleeps, and what happens at some of them."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.events: list[tuple[float, Callable[[], None]]] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)
        self.now += seconds
        while self.events and self.events[0][0] <= self.now:
            self.events.pop(0)[1]()

    def at(self, seconds: float, event: Callable[[], None]) -> None:
        """Have something happen this many seconds from now."""
        self.events.append((self.now + seconds, event))
        self.events.sort(key=lambda item: item[0])


class World:
    """One Lease and the replicas that want it."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.client = MemoryClient()

    def replica(self, identity: str = "a") -> Lease:
        client: Any = self.client
        return Lease(client, "psr-system", "psr-operator", identity, TIMES, self.clock, self.clock.sleep)

    def spec(self) -> Any:
        return self.client.objects[PATH]["spec"]

    def hold(self, identity: str, seconds: float = 30) -> None:
        """Somebody else takes or renews the Lease."""
        spec = {"holderIdentity": identity, "leaseDurationSeconds": seconds, "leaseTransitions": 4}
        self.client.put(PATH, {"metadata": {"name": "psr-operator"}, "spec": spec})


@pytest.fixture
def world() -> World:
    return World()


# --- getting it


def test_a_lease_that_is_not_there_is_created(world: World) -> None:
    lease = world.replica()
    assert not lease.held
    asyncio.run(lease.acquire())
    lease.require()
    assert world.clock.now == 1000.0
    spec = world.spec()
    assert (spec["holderIdentity"], spec["leaseDurationSeconds"], spec["leaseTransitions"]) == ("a", 30, 0)


def test_of_two_that_create_it_one_waits(world: World) -> None:
    def other_is_first(request: Request) -> None:
        if request.verb == "POST" and PATH not in world.client.objects:
            world.hold("b")

    world.client.before = other_is_first
    lease = world.replica()
    assert not asyncio.run(lease._try())
    assert not lease.held
    assert world.spec()["holderIdentity"] == "b"


def test_another_s_lease_is_taken_once_it_was_not_renewed_for_its_duration(world: World) -> None:
    """By the clock of the one that waits: what the holder wrote about time is not believed."""
    world.hold("b", seconds=30)
    for seconds in (5, 10, 15):
        world.clock.at(seconds, lambda: world.hold("b"))
    lease = world.replica()
    asyncio.run(lease.acquire())
    assert 1045 < world.clock.now <= 1051, "30 s after the last renewal that was seen"
    assert (world.spec()["holderIdentity"], world.spec()["leaseTransitions"]) == ("a", 5)


def test_a_replica_that_comes_again_takes_its_own_lease_up_at_once(world: World) -> None:
    asyncio.run(world.replica("a").acquire())
    began = world.spec()["acquireTime"]
    asyncio.run(world.replica("a").acquire())
    assert world.clock.now == 1000.0
    assert (world.spec()["acquireTime"], world.spec()["leaseTransitions"]) == (began, 0)


def test_two_that_take_an_expired_lease_do_not_both_hold_it(world: World) -> None:
    world.hold("gone", seconds=1)
    lease = world.replica()

    async def take() -> bool:
        await lease._try()
        world.clock.now += 2
        world.client.before = lambda request: world.hold("c") if request.verb == "PUT" else None
        return await lease._try()

    assert not asyncio.run(take())
    assert not lease.held
    assert world.spec()["holderIdentity"] == "c"


def test_without_the_right_to_it_nobody_waits_for_ever(world: World) -> None:
    world.client.before = refuse(403, "Forbidden", verb="POST", part="leases")
    with pytest.raises(Refused, match="403"):
        asyncio.run(world.replica().acquire())


@pytest.mark.parametrize("code", [429, 500, 503])
def test_an_apiserver_that_cannot_answer_now_is_asked_again(world: World, code: int) -> None:
    world.client.before = refuse(code, verb="POST", part="leases", times=2)
    lease = world.replica()
    asyncio.run(lease.acquire())
    assert lease.held


# --- keeping it


def test_it_is_renewed_in_time_again_and_again(world: World) -> None:
    lease = world.replica()

    async def hour() -> None:
        await lease.acquire()
        keeping = asyncio.create_task(lease.keep())
        while world.clock.now < 4600:
            await asyncio.sleep(0)
            lease.require()
        keeping.cancel()

    asyncio.run(hour())
    assert sum(request.startswith("PUT") for request in world.client.writes()) >= 700


def test_a_renewal_counts_from_when_it_was_asked_for(world: World) -> None:
    """The answer may be late; others have counted since the write."""

    def slow(request: Request) -> None:
        if request.verb == "POST":
            world.clock.now += 15

    world.client.before = slow
    lease = world.replica()
    asyncio.run(lease.acquire())
    world.clock.now = 1019.9
    assert lease.held
    world.clock.now = 1020.0
    assert not lease.held


@pytest.mark.parametrize("error", [Refused(503, "", "no"), Refused(403, "", "no roles yet"), Unreachable("no way")])
def test_renewals_that_fail_are_tried_while_there_is_time(world: World, error: Exception) -> None:
    lease = world.replica()

    def fail(request: Request) -> None:
        if 1001 < world.clock.now < 1018:
            raise error

    async def keep() -> None:
        await lease.acquire()
        world.client.before = fail
        keeping = asyncio.create_task(lease.keep())
        while world.clock.now < 1100:
            await asyncio.sleep(0)
            lease.require()
        keeping.cancel()

    asyncio.run(keep())
    assert lease.held


# --- losing it


def test_without_renewal_nothing_may_be_written_after_the_deadline(world: World) -> None:
    lease = world.replica()

    def fail(_: Request) -> None:
        assert world.clock.now < 1100, "it would try for ever"
        raise Unreachable("no way")

    async def keep() -> None:
        await lease.acquire()
        world.client.before = fail
        await lease.keep()

    with pytest.raises(LeaseLost, match="time is over"):
        asyncio.run(keep())
    assert world.clock.now == 1020.0, "10 s before anybody else may take it"
    with pytest.raises(LeaseLost):
        lease.require()


def test_whoever_sees_another_holder_has_lost_it_at_once(world: World) -> None:
    lease = world.replica()

    async def keep() -> None:
        await lease.acquire()
        world.hold("b")
        await lease.keep()

    with pytest.raises(LeaseLost, match="b holds the lease"):
        asyncio.run(keep())
    assert world.clock.now == 1005.0
    assert not lease.held
    assert world.spec()["holderIdentity"] == "b"


def test_a_renewal_that_comes_too_late_does_not_bring_it_back_from_another(world: World) -> None:
    lease = world.replica()
    asyncio.run(lease.acquire())
    world.clock.now += 40
    world.hold("b")
    with pytest.raises(LeaseLost, match="b holds"):
        asyncio.run(lease._try())


def test_a_late_renewal_of_a_lease_that_nobody_took_holds_again(world: World) -> None:
    """The process that has ended for it does not come here; one that was only stopped for a while may go on."""
    lease = world.replica()
    asyncio.run(lease.acquire())
    world.clock.now += 40
    assert not lease.held
    assert asyncio.run(lease._try())
    assert lease.held


# --- giving it up


def test_a_released_lease_is_taken_at_once(world: World) -> None:
    lease, other = world.replica("a"), world.replica("b")
    asyncio.run(lease.acquire())
    asyncio.run(lease.release())
    assert not lease.held
    assert (world.spec()["holderIdentity"], world.spec()["leaseDurationSeconds"]) == ("", 1)
    asyncio.run(other.acquire())
    assert world.clock.now == 1000.0
    assert (world.spec()["holderIdentity"], world.spec()["leaseTransitions"]) == ("b", 1)


def test_whoever_does_not_hold_it_releases_nothing(world: World) -> None:
    world.hold("b")
    asyncio.run(world.replica("a").release())
    assert world.client.requests == []


def test_another_s_lease_is_not_released(world: World) -> None:
    lease = world.replica("a")
    asyncio.run(lease.acquire())
    world.hold("b")
    asyncio.run(lease.release())
    assert world.spec()["holderIdentity"] == "b"
    assert not lease.held


def test_a_release_that_fails_is_no_error(world: World) -> None:
    lease = world.replica("a")
    asyncio.run(lease.acquire())
    world.client.before = refuse(500, verb="PUT", part="leases")
    asyncio.run(lease.release())
    assert not lease.held


def test_the_usual_proportions_for_another_duration() -> None:
    assert Times.of(30.0) == Times()
    assert Times.of(6.0) == Times(6.0, 4.0, 1.0)
