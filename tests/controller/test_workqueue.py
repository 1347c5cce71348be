"""The queue: one look at a time, events that come together are one, errors wait longer each time."""

from __future__ import annotations

import asyncio

from psr_operator.controller.workqueue import FIRST_PAUSE, LONGEST_PAUSE, MOST_OF_A_NAMESPACE, Key, WorkQueue

RUNNER = asyncio.Runner()
"""A queue lives in one event loop."""
A, B = Key("StepDPOJob", "ns", "a"), Key("StepDPOJob", "ns", "b")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def taken(queue: WorkQueue) -> Key | None:
    """What is due now."""

    async def take() -> Key | None:
        try:
            return await asyncio.wait_for(queue.take(), 0.01)
        except TimeoutError:
            return None

    return RUNNER.run(take())


def test_many_events_are_one_look() -> None:
    queue = WorkQueue(Clock())
    for _ in range(100):
        queue.add(A)
    assert taken(queue) == A
    assert taken(queue) is None


def test_a_key_is_not_given_out_twice_at_a_time() -> None:
    queue = WorkQueue(Clock())
    queue.add(A)
    assert taken(queue) == A
    queue.add(A)
    queue.add(B)
    assert taken(queue) == B
    assert taken(queue) is None
    queue.done(A)
    assert taken(queue) == A


def test_an_earlier_time_counts() -> None:
    clock = Clock()
    queue = WorkQueue(clock)
    queue.add(A, after=10)
    queue.add(A, after=1)
    queue.add(A, after=5)
    assert taken(queue) is None
    clock.now = 1
    assert taken(queue) == A
    queue.done(A)
    clock.now = 20
    assert taken(queue) is None, "the later times were the same look"


def test_errors_wait_longer_each_time_whatever_happens() -> None:
    clock = Clock()
    queue = WorkQueue(clock)
    queue.add(A)
    pauses = []
    for _ in range(12):
        assert taken(queue) == A
        queue.add(A)  # an event while it is worked on
        pauses.append(queue.done(A, failed=True))
        assert taken(queue) is None
        clock.now += pauses[-1]
    assert pauses[:3] == [FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE]
    assert pauses[-1] == LONGEST_PAUSE
    assert taken(queue) == A
    assert queue.done(A) == 0
    queue.add(A)
    assert taken(queue) == A
    assert queue.done(A, failed=True) == FIRST_PAUSE, "a success forgets the failures"


def test_who_waits_is_woken() -> None:
    async def scene() -> Key:
        queue = WorkQueue(asyncio.get_running_loop().time)
        waiting = asyncio.create_task(queue.take())
        await asyncio.sleep(0)
        queue.add(A, after=60)
        await asyncio.sleep(0)
        queue.add(A)
        return await asyncio.wait_for(waiting, 5)

    assert asyncio.run(scene()) == A


def test_a_forgotten_key_does_not_come() -> None:
    queue = WorkQueue(Clock())
    queue.add(A)
    queue.forget(A)
    assert taken(queue) is None
    assert len(queue) == 0


def test_it_tells_since_when_there_was_something_to_look_at() -> None:
    clock = Clock()
    queue = WorkQueue(clock)
    clock.now = 1
    queue.add(A, after=2)
    clock.now = 2
    queue.add(A)
    queue.add(B, after=3, planned=True)
    clock.now = 7
    assert {taken(queue), taken(queue)} == {A, B}
    assert (queue.since(A), queue.since(B)) == (1, 5)


def test_one_namespace_does_not_take_every_worker() -> None:
    """Its reconciliations may take long, when an admission webhook does not answer say."""
    queue = WorkQueue(lambda: 0.0)
    crowd = [Key("SFTJob", "crowded", f"job-{number}") for number in range(MOST_OF_A_NAMESPACE + 1)]
    alone = Key("SFTJob", "quiet", "job")
    for key in (*crowd, alone):
        queue.add(key)
    assert [taken(queue) for _ in range(MOST_OF_A_NAMESPACE + 2)] == [*crowd[:-1], alone, None]
    queue.done(crowd[0])
    assert taken(queue) == crowd[-1]
    assert len(queue) == 0
