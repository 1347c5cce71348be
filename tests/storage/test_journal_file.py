"""The journal on `file://`."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from psr_runtime.artefacts.journal import Journal
from psr_runtime.protocol.errors import DataError
from psr_runtime.storage import Storage, file_uri


def write(uri: str, *records: dict[str, object]) -> None:
    async def all_of_them() -> None:
        with Journal(Storage(), uri) as journal:
            for record in records:
                await journal.append(record)

    asyncio.run(all_of_them())


def replay(uri: str) -> list[dict[str, object]]:
    return Journal(Storage(), uri).replay()


def test_records_of_all_writers_come_back_in_order(tmp_path: Path) -> None:
    uri = file_uri(tmp_path / "log")
    assert replay(uri) == []
    write(uri, {"n": 1}, {"n": 2, "text": "naïve — ∑"})
    write(uri, {"n": 3})
    for n in range(4, 13):
        write(uri, {"n": n})
    assert [record["n"] for record in replay(uri)] == list(range(1, 13))
    assert sorted(os.listdir(tmp_path / "log"))[:3] == ["segment-1.jsonl", "segment-10.jsonl", "segment-11.jsonl"]


def test_nothing_is_written_before_the_first_append(tmp_path: Path) -> None:
    Journal(Storage(), file_uri(tmp_path / "log")).close()
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize("torn", [b'{"n":', b'{"n":3}', b"\0\0\0", '{"n":"é'.encode()[:-1]])
def test_the_torn_last_line_of_a_killed_writer_is_dropped(tmp_path: Path, torn: bytes) -> None:
    uri = file_uri(tmp_path)
    write(uri, {"n": 1}, {"n": 2})
    with open(tmp_path / "segment-1.jsonl", "ab") as file:
        file.write(torn)
    write(uri, {"n": 4})
    assert [record["n"] for record in replay(uri)] == [1, 2, 4]


@pytest.mark.parametrize("broken", [b"{]", b"7", b"", b"\xff\xfe"])
def test_any_other_broken_line_is_named(tmp_path: Path, broken: bytes) -> None:
    uri = file_uri(tmp_path)
    write(uri, {"n": 1})
    with open(tmp_path / "segment-1.jsonl", "ab") as file:
        file.write(broken + b'\n{"n":3}\n')
    with pytest.raises(DataError, match=r"segment-1\.jsonl, line 2: not"):
        replay(uri)


def test_appends_that_come_together_share_a_flush(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (flushed.append(file), real(file))[1])

    async def many() -> None:
        with Journal(Storage(), file_uri(tmp_path)) as journal:
            await journal.append({"first": True})
            flushed.clear()
            await asyncio.gather(*(journal.append({"n": n}) for n in range(500)))

    asyncio.run(many())
    assert [record["n"] for record in replay(file_uri(tmp_path))[1:]] == list(range(500))
    assert 1 <= len(flushed) <= 2


def test_a_failed_write_fails_its_appenders_and_ends_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail() -> list[BaseException | None]:
        journal = Journal(Storage(), file_uri(tmp_path))
        await journal.append({"n": 0})
        monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(5, "Input/output error")))
        outcomes = await asyncio.gather(*(journal.append({"n": n}) for n in (1, 2)), return_exceptions=True)
        monkeypatch.undo()
        later = await asyncio.gather(journal.append({"n": 3}), return_exceptions=True)
        journal.close()
        return outcomes + later

    assert [type(outcome) for outcome in asyncio.run(fail())] == [OSError] * 3


def test_two_writers_at_once_keep_their_own_segments(tmp_path: Path) -> None:
    async def both() -> None:
        with Journal(Storage(), file_uri(tmp_path)) as a, Journal(Storage(), file_uri(tmp_path)) as b:
            for n in range(5):
                await asyncio.gather(a.append({"a": n}), b.append({"b": n}))

    asyncio.run(both())
    records = replay(file_uri(tmp_path))
    assert [r["a"] for r in records if "a" in r] == [r["b"] for r in records if "b" in r] == list(range(5))


def test_a_cancelled_appender_does_not_disturb_the_others(tmp_path: Path) -> None:
    async def main() -> None:
        with Journal(Storage(), file_uri(tmp_path)) as journal:
            cancelled = asyncio.create_task(journal.append({"n": 1}))
            kept = asyncio.create_task(journal.append({"n": 2}))
            await asyncio.sleep(0)
            cancelled.cancel()
            await kept
            await journal.append({"n": 3})

    asyncio.run(main())
    assert [record["n"] for record in replay(file_uri(tmp_path)) if record["n"] != 1] == [2, 3]


WRITER = """
import asyncio, sys
from psr_runtime.artefacts.journal import Journal
from psr_runtime.storage import Storage

async def main():
    journal = Journal(Storage(), sys.argv[1])
    async def work(worker):
        n = 0
        while True:
            await journal.append({"worker": worker, "n": n, "filler": "x" * 3000})
            print(worker, n, flush=True)
            n += 1
    await asyncio.gather(*(work(worker) for worker in range(8)))

asyncio.run(main())
"""


def test_sigkill_loses_no_record_whose_append_returned(tmp_path: Path) -> None:
    uri = file_uri(tmp_path)
    returned: dict[int, list[int]] = {}
    for kill in range(3):
        process = subprocess.Popen([sys.executable, "-c", WRITER, uri], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(40 + 37 * kill)]
        process.send_signal(signal.SIGKILL)
        lines += process.communicate()[0].splitlines()
        for line in lines:
            worker, _, n = line.strip().partition(" ")
            if n:
                returned.setdefault(kill * 8 + int(worker), []).append(int(n))
    logged: dict[int, list[int]] = {}
    segment = -1
    for record in replay(uri):
        if record["n"] == 0 and record["worker"] == 0:
            segment += 1
        logged.setdefault(segment * 8 + int(str(record["worker"])), []).append(int(str(record["n"])))
    for worker, numbers in returned.items():
        assert logged[worker][: len(numbers)] == numbers
        assert logged[worker] == list(range(len(logged[worker])))
