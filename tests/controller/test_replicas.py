"""Replicas of one operator: exactly one writes, whatever becomes of it. And operators that share nothing."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harness.control_plane.plane import ControlPlane
from harness.control_plane.player import Outcome, Pod, succeed
from harness.operator_process import Operator, grant, start_operator
from tests.controller.one_run import RUN, Place, place_for, places_for, run
from tests.controller.proxy import Proxy, start_proxy

TRAINING = f"{RUN}-1-dpo"
LOST = 70
SLACK = 6.0
"""Seconds that a busy machine may need besides."""


@dataclass
class Replica:
    """An operator with a proxy of its own, that keeps its writes apart from another's."""

    operator: Operator
    proxy: Proxy

    def writes(self) -> int:
        """How many there were, to the Lease and of Events too."""
        return len(self.proxy.written)


def held_training(pod: Pod) -> Outcome:
    return Outcome(hold=True) if pod.stage == "step-dpo" else succeed(pod)


@contextlib.contextmanager
def replicas(
    plane: ControlPlane, place: Place, folder: Path, lease_seconds: float
) -> Iterator[tuple[Replica, Replica]]:
    """Two of them, the first of which leads while a run trains."""
    account = grant(plane, [place.namespace])
    with contextlib.ExitStack() as stack:
        started = []
        for identity in ("first", "second"):
            proxy = stack.enter_context(start_proxy(plane))
            operator = stack.enter_context(
                start_operator(
                    account,
                    folder,
                    namespaces=[place.namespace],
                    identity=identity,
                    lease_seconds=lease_seconds,
                    server=proxy.url,
                )
            )
            started.append(Replica(operator, proxy))
            place.until(started[0].operator.leads, "the first one's lead")
        first, second = started
        place.make(run())
        place.until(lambda: place.player.pods(f"{TRAINING}-a1"), "training")
        assert first.operator.leads()
        assert not second.operator.leads()
        assert second.proxy.written == []
        try:
            yield first, second
        except AssertionError:
            print(first.operator.said()[-3000:], second.operator.said()[-3000:])
            raise


@pytest.fixture
def place(crds: ControlPlane, request: pytest.FixtureRequest) -> Iterator[Place]:
    with place_for(crds, request.node.name.replace("_", "-")[5:45].strip("-"), held_training) as it:
        yield it
        it.judge()


def until_second_leads(place: Place, second: Replica) -> float:
    """Seconds until it does."""
    began = time.monotonic()
    place.until(second.operator.leads, "the second one's lead")
    return time.monotonic() - began


def finish(place: Place, undisturbed: dict[str, Any], first: Replica, second: Replica) -> None:
    """Whoever leads now brings the run to its end, and never both have written at the same time."""
    place.player.release(f"{TRAINING}-a1")
    place.until_state(undisturbed)
    assert second.proxy.counted
    assert first.proxy.counted[-1].ended < second.proxy.counted[0].began
    created = first.proxy.created() + second.proxy.created()
    assert max(created.values()) == 1, created


def test_the_leader_is_killed(place: Place, undisturbed: dict[str, Any], tmp_path: Path) -> None:
    """Another leads once the lease has run out: it looks every second for whether it was renewed."""
    with replicas(place.plane, place, tmp_path, lease_seconds=6.0) as (first, second):
        assert first.operator.stop(signal.SIGKILL) == -signal.SIGKILL
        assert until_second_leads(place, second) < 6.0 + 1.0 + SLACK
        finish(place, undisturbed, first, second)


def test_the_leader_is_told_to_end(place: Place, undisturbed: dict[str, Any], tmp_path: Path) -> None:
    """It lets the lease go: nobody waits until that has run out."""
    with replicas(place.plane, place, tmp_path, lease_seconds=60.0) as (first, second):
        assert first.operator.stop(signal.SIGTERM) == 0
        assert until_second_leads(place, second) < 2.0 + SLACK
        finish(place, undisturbed, first, second)


def test_the_leader_sleeps(place: Place, undisturbed: dict[str, Any], tmp_path: Path) -> None:
    """When it wakes up it has things to write, and writes none of them: it ends."""
    with replicas(place.plane, place, tmp_path, lease_seconds=6.0) as (first, second):
        first.operator.process.send_signal(signal.SIGSTOP)
        place.player.release(f"{TRAINING}-a1")
        until_second_leads(place, second)
        place.until(lambda: second.proxy.counted, "a write of the second one")
        before = first.writes()
        first.operator.process.send_signal(signal.SIGCONT)
        assert first.operator.process.wait(30) == LOST
        assert first.writes() == before
        finish(place, undisturbed, first, second)


def test_the_leader_cannot_reach_the_apiserver(place: Place, undisturbed: dict[str, Any], tmp_path: Path) -> None:
    """It ends before its time is over, so that the other's begins after it."""
    with replicas(place.plane, place, tmp_path, lease_seconds=6.0) as (first, second):
        first.proxy.dead = True
        assert first.operator.process.wait(30) == LOST
        assert not second.operator.leads()
        until_second_leads(place, second)
        finish(place, undisturbed, first, second)


def test_operators_of_different_namespaces(crds: ControlPlane, undisturbed: dict[str, Any], tmp_path: Path) -> None:
    """Each serves its own with nothing but Roles; a namespace that nobody serves stays as it is."""
    with contextlib.ExitStack() as stack:
        places = stack.enter_context(places_for(crds, ["apart-one", "apart-two", "apart-nobody"]))
        served = []
        for place in places[:2]:
            proxy = stack.enter_context(start_proxy(crds))
            operator = stack.enter_context(
                start_operator(grant(crds, [place.namespace]), tmp_path, namespaces=[place.namespace], server=proxy.url)
            )
            served.append(Replica(operator, proxy))
        for place in places:
            place.make(run())
        for place, replica in zip(places, served, strict=False):
            place.until_state(undisturbed)
            assert {item.request.namespace for item in replica.proxy.counted} == {place.namespace}
            assert "orbidden" not in replica.operator.said()
        assert places[2].ready() is None
        assert places[2].names("SelfRewardIteration") == set()
        for place in places:
            place.judge()
