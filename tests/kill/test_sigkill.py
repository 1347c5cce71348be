"""SIGKILL at 200 moments of the loop: whatever was done by then, the next attempt ends with the same bytes."""

from __future__ import annotations

import os
import random
import shutil
from collections import Counter
from pathlib import Path

from tests.kill.loop import LOOP, Point, files, run_points, undisturbed

POINTS = {"m1": 50, "shard-0": 40, "shard-1": 10, "pairs": 21, "m2": 50, "fresh": 23, "report": 21}
"""Durable operations to die at, by output; spread over all that there are."""
SECONDS = {"m1": 0.6, "shard-0": 0.2, "m2": 0.7, "fresh": 0.2}
"""Some more deaths come at any moment of about so long."""


def choose(operations: dict[str, list[str]]) -> list[Point]:
    """Points to die at, before and after operations in turn and within writes, and some moments that fall anywhere."""
    chance = random.Random(0)
    points = []
    for work in LOOP:
        names, wanted = operations[work.output], POINTS[work.output]
        for index in range(wanted):
            at = index * len(names) // wanted
            kind = "within" if names[at] == "write" else "after" if index % 2 else "before"
            points.append(Point(work, kind, at + 1))
        if work.output in SECONDS:
            points += [Point(work, "time", chance.uniform(0.02, SECONDS[work.output])) for _ in range(5)]
    return points


def test_killed_at_any_time_every_stage_ends_with_the_same_bytes(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    operations = undisturbed(base)
    expected = {work.output: files(base / work.output) for work in LOOP}
    killed: Counter[str] = Counter()
    wrong = []
    for ended in run_points(choose(operations), base, tmp_path, at_once=os.cpu_count() or 1):
        output = ended.point.work.output
        killed[output] += ended.killed
        if ended.code != 0 or files(ended.place) != expected[output]:
            wrong.append((output, ended.point.kind, ended.point.at, ended.code, differences(ended.place, expected)))
        else:
            shutil.rmtree(ended.place)
    counts = {output: len(names) for output, names in operations.items()}
    print(f"\nkilled {killed.total()} times: {dict(killed)}, among durable operations {counts}")
    assert wrong == []
    assert killed.total() >= 200
    assert set(killed) == {work.output for work in LOOP}


def differences(place: Path, expected: dict[str, dict[str, bytes]]) -> list[str]:
    """Files that are missing, too many or other than those of some undisturbed output, for the message."""
    present = files(place)
    nearest = min(expected.values(), key=lambda wanted: len(wanted.items() ^ present.items()))
    return sorted({name for name, _ in nearest.items() ^ present.items()})
