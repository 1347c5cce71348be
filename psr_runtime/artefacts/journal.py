"""An append-only log of JSON records that survives SIGKILL, on `file://` and `s3://`.

A stage keeps its half-done work here: it replays what earlier attempts wrote, then appends. What is promised:

- a record whose `append` has returned is on disk (fsync) or stored (S3 answered), and every later `replay` gives it;
- a record whose `append` did not return is there whole or not at all;
- each writer writes a segment of its own, so nothing that stands is ever changed, and records come back in the
  order of writing: by segment, within it as appended;
- two writers at once do not damage each other's segments. That there is one writer is for the caller to see to:
  records of a second one are unknown to the first, and are replayed after it.

On `file://` a segment is `segment-<n>.jsonl`; appends that come together share one write and one fsync. On `s3://`
objects cannot grow: appends that arrive while a put is under way go into the next object, `segment-<n>-<k>.jsonl`.
Object 0 of a segment holds no records; it names the writer, which distinguishes a put that was repeated from a rival's.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from psr_runtime.protocol.errors import DataError
from psr_runtime.storage import Storage, join
from psr_runtime.storage.files import file_errors, make_folder, sync_folder

PARALLEL = 16
SEGMENT = re.compile(r"segment-(\d+)(?:-(\d+))?\.jsonl")


class Journal:
    """The log in one folder. `append` belongs to one event loop; use as a context manager or `close` it.

    Args:
        storage: the stores.
        uri: the folder. It need not exist; nothing is written before the first `append`.
    """

    def __init__(self, storage: Storage, uri: str) -> None:
        self._storage = storage
        self._uri = uri
        folder = storage.local_path(uri)
        self._segment: Segment = FileSegment(storage, uri, folder) if folder else ObjectSegment(storage, uri)
        self._waiting: list[tuple[bytes, asyncio.Future[None]]] = []
        self._flushing: asyncio.Task[None] | None = None
        self._failure: Exception | None = None

    def replay(self) -> list[dict[str, Any]]:
        """The records of all earlier writers, in order of writing. Call it before the first `append`.

        The last line of a writer that was killed while writing is dropped.

        Raises:
            DataError: any other line is broken; the message names the file and the line.
        """
        places = [uri for _, uri in segments(self._storage, self._uri)]
        torn = self._storage.local_path(self._uri) is not None
        with ThreadPoolExecutor(PARALLEL) as pool:
            contents = pool.map(self._storage.read, places)
            return [
                record
                for place, content in zip(places, contents, strict=True)
                for record in _parse(place, content, torn_end=torn)
            ]

    async def append(self, record: dict[str, Any]) -> None:
        """Write one record. It is durable when this returns; a cancelled call may or may not have written it.

        Raises:
            Interrupted: the disk is full or the store cannot be reached. Nothing can be appended after that: what
                stands in the segment is uncertain, so the work goes on with a new writer.
        """
        if self._failure is not None:
            raise self._failure
        line = json.dumps(record, separators=(",", ":")).encode() + b"\n"
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((line, written))
        if self._flushing is None:
            self._flushing = asyncio.create_task(self._flush())
        await written

    async def _flush(self) -> None:
        """Write what waits, in one piece at a time, until nothing waits."""
        batch: list[tuple[bytes, asyncio.Future[None]]] = []
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, []
                await asyncio.to_thread(self._segment.write, b"".join(line for line, _ in batch))
                for _, written in batch:
                    if not written.done():
                        written.set_result(None)
        except Exception as error:
            self._fail(error, batch)
        except asyncio.CancelledError:
            self._fail(ValueError(f"{self._uri}: the journal's event loop has ended"), batch)
            raise
        finally:
            self._flushing = None

    def _fail(self, error: Exception, batch: list[tuple[bytes, asyncio.Future[None]]]) -> None:
        self._failure = error
        for _, written in batch + self._waiting:
            if not written.done():
                written.set_exception(error)
        self._waiting = []

    def close(self) -> None:
        """End writing; waits for a write under way. Appends that have not returned are uncertain."""
        self._failure = self._failure or ValueError(f"{self._uri}: the journal is closed")
        self._segment.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def segments(storage: Storage, uri: str) -> list[tuple[tuple[int, int], str]]:
    """The files of a journal in order of writing: (segment, number within it) and URI. Other files are ignored."""
    entries = []
    for item in storage.list(uri):
        match = SEGMENT.fullmatch(item.uri.rpartition("/")[2])
        if match and join(uri, match[0]) == item.uri:
            entries.append(((int(match[1]), int(match[2] or 0)), item.uri))
    return sorted(entries)


def _parse(place: str, content: bytes, *, torn_end: bool) -> Iterator[dict[str, Any]]:
    *lines, rest = content.split(b"\n")
    if rest and not torn_end:
        raise DataError(f"{place}, line {len(lines) + 1}: the line is cut off; the object was changed or truncated")
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except ValueError as error:
            raise DataError(f"{place}, line {number}: not JSON ({error}); the file was changed") from error
        if not isinstance(record, dict):
            raise DataError(f"{place}, line {number}: not a JSON object; the file was changed")
        if WRITER not in record:
            yield record


# --- one writer's segment ----------------------------------------------------------------------------------

WRITER = "journal-writer"
"""Key of the one line in object 0 of an S3 segment."""


class Segment(Protocol):
    """What a writer appends to. Methods block; `write` is called by one thread at a time."""

    def write(self, data: bytes) -> None:
        """Make whole lines durable."""
        ...

    def close(self) -> None: ...


class FileSegment:
    """A file that no other writer has: created exclusively, written in one piece, flushed to disk."""

    def __init__(self, storage: Storage, uri: str, folder: Path) -> None:
        self._storage = storage
        self._uri = uri
        self._folder = folder
        self._lock = threading.Lock()
        self._file: int | None = None
        self._closed = False

    def write(self, data: bytes) -> None:
        with self._lock, file_errors(self._uri):
            if self._closed:
                raise ValueError(f"{self._uri}: the journal is closed")
            if self._file is None:
                self._file = self._create()
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._file, rest) :]
            os.fsync(self._file)

    def _create(self) -> int:
        make_folder(self._folder)
        number = next_number(self._storage, self._uri)
        while True:
            try:
                path = self._folder / f"segment-{number}.jsonl"
                file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o644)
            except FileExistsError:
                number += 1
                continue
            sync_folder(self._folder)
            return file

    def close(self) -> None:
        with self._lock:
            self._closed = True
            if self._file is not None:
                os.close(self._file)
                self._file = None


class ObjectSegment:
    """A row of immutable objects that no other writer has: its number is claimed by creating object 0."""

    def __init__(self, storage: Storage, uri: str) -> None:
        self._storage = storage
        self._uri = uri
        self._lock = threading.Lock()
        self._number: int | None = None
        self._next = 1
        self._closed = False

    def write(self, data: bytes) -> None:
        with self._lock:
            if self._closed:
                raise ValueError(f"{self._uri}: the journal is closed")
            if self._number is None:
                self._number = self._claim()
            place = join(self._uri, f"segment-{self._number}-{self._next}.jsonl")
            if not self._create(place, data):
                raise DataError(f"{place}: written by somebody else within this writer's segment; remove the log")
            self._next += 1

    def _claim(self) -> int:
        name = json.dumps({WRITER: uuid.uuid4().hex}).encode() + b"\n"
        number = next_number(self._storage, self._uri)
        while not self._create(join(self._uri, f"segment-{number}-0.jsonl"), name):
            number += 1
        return number

    def _create(self, place: str, data: bytes) -> bool:
        """Whether `data` stands at `place` by this writer.

        A put whose answer was lost is sent again by the client and then finds its own object there.
        """
        return self._storage.create(place, data) or self._storage.read(place) == data

    def close(self) -> None:
        with self._lock:
            self._closed = True


def next_number(storage: Storage, uri: str) -> int:
    """The number after the last segment's, from 1."""
    return max((number for (number, _), _ in segments(storage, uri)), default=0) + 1
