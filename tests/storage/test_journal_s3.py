"""The journal on `s3://`, on a real server."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys

import pytest

from harness.s3_server import S3Server
from psr_runtime.artefacts.journal import Journal, segments
from psr_runtime.protocol.errors import DataError
from psr_runtime.storage import Storage, join


def test_records_of_all_writers_come_back_in_order(storage: Storage, prefix: str) -> None:
    async def write(*numbers: int) -> None:
        with Journal(storage, prefix) as journal:
            for number in numbers:
                await journal.append({"n": number})

    assert Journal(storage, prefix).replay() == []
    for numbers in [range(12), range(12, 13), range(13, 15)]:
        asyncio.run(write(*numbers))
    assert [record["n"] for record in Journal(storage, prefix).replay()] == list(range(15))


def test_appends_during_a_put_share_the_next_object(storage: Storage, prefix: str) -> None:
    async def many() -> None:
        with Journal(storage, prefix) as journal:
            first = asyncio.create_task(journal.append({"n": 0}))
            await asyncio.sleep(0)
            await asyncio.gather(first, *(journal.append({"n": n}) for n in range(1, 200)))

    asyncio.run(many())
    assert [record["n"] for record in Journal(storage, prefix).replay()] == list(range(200))
    assert len(segments(storage, prefix)) <= 3  # the writer's name, and two batches at most


def test_writers_with_the_same_records_keep_their_own_segments(storage: Storage, prefix: str) -> None:
    async def both() -> None:
        with Journal(storage, prefix) as a, Journal(storage, prefix) as b:
            for n in range(3):
                await asyncio.gather(a.append({"n": n}), b.append({"n": n}))

    asyncio.run(both())
    assert [record["n"] for record in Journal(storage, prefix).replay()] == [0, 1, 2, 0, 1, 2]


def test_a_put_whose_answer_was_lost_counts_once(
    storage: Storage, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Storage.create
    monkeypatch.setattr(Storage, "create", lambda self, uri, data: real(self, uri, data) and False)

    async def write() -> None:
        with Journal(storage, prefix) as journal:
            for n in range(3):
                await journal.append({"n": n})

    asyncio.run(write())
    assert [record["n"] for record in Journal(storage, prefix).replay()] == [0, 1, 2]
    assert {number for (number, _), _ in segments(storage, prefix)} == {1}


def test_a_cut_off_object_is_named(storage: Storage, prefix: str) -> None:
    storage.write(join(prefix, "segment-1-1.jsonl"), b'{"n":1}\n{"n":')
    with pytest.raises(DataError, match=r"segment-1-1\.jsonl, line 2: the line is cut off"):
        Journal(storage, prefix).replay()


def test_an_object_within_the_segment_of_another_is_refused(storage: Storage, prefix: str) -> None:
    async def write() -> None:
        with Journal(storage, prefix) as journal:
            await journal.append({"n": 1})
            storage.write(join(prefix, "segment-1-2.jsonl"), b'{"n":"foreign"}\n')
            await journal.append({"n": 2})

    with pytest.raises(DataError, match=r"segment-1-2\.jsonl: written by somebody else"):
        asyncio.run(write())


WRITER = """
import asyncio, os, sys
from psr_runtime.config import StorageAccess
from psr_runtime.artefacts.journal import Journal
from psr_runtime.storage import Storage

async def main():
    journal = Journal(Storage(StorageAccess(endpoint=sys.argv[1])), sys.argv[2])
    async def work(worker):
        n = 0
        while True:
            await journal.append({"worker": worker, "n": n})
            os.write(1, f"{worker} {n}\\n".encode())  # in one piece, whenever the end comes
            n += 1
    await asyncio.gather(*(work(worker) for worker in range(4)))

asyncio.run(main())
"""


def test_sigkill_loses_no_record_whose_append_returned(s3: S3Server, storage: Storage, prefix: str) -> None:
    command = [sys.executable, "-c", WRITER, s3.endpoint, prefix]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **s3.environment()})
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(50)]
    process.send_signal(signal.SIGKILL)
    lines += process.communicate()[0].splitlines()
    returned = [tuple(map(int, line.split())) for line in lines]
    logged = [(record["worker"], record["n"]) for record in Journal(storage, prefix).replay()]
    assert len(returned) >= 50
    assert set(returned) <= set(logged)
    assert len(logged) == len(set(logged)) <= len(returned) + 4
