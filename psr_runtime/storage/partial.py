"""A file that comes in parts and is not whole yet: how it is cut, and which parts are there after a break."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from psr_runtime.protocol.errors import Interrupted
from psr_runtime.storage import hashes
from psr_runtime.storage.hashes import PIECE, Hash

PARTIAL, PARTS = ".psr-partial", ".psr-parts"


@dataclass(frozen=True)
class Slice:
    """Part `number` of a file, from 1: `length` bytes from `start`."""

    number: int
    start: int
    length: int


def slices(size: int, part: int) -> list[Slice]:
    """How a file of `size` bytes is cut into parts."""
    return [Slice(number, start, min(part, size - start)) for number, start in enumerate(range(0, size, part), 1)]


class PartialFile:
    """`<file>.psr-partial`, and in `<file>.psr-parts` which parts of which object it holds.

    A part counts once it was written, though not flushed to the disk: it outlives its process, not its machine's
    power. So the notes name the boot that they were written in and mean nothing in another one.

    Attributes:
        done: numbers of the parts that it holds.
    """

    def __init__(self, path: Path, handle: int, place: Path, notes: Path, tag: str, size: int) -> None:
        self._path, self._handle, self._place, self._notes = path, handle, place, notes
        head = json.dumps({"tag": tag, "size": size, "part": hashes.PART, "boot": boot()})
        lines = notes.read_text().split("\n") if notes.is_file() else [""]
        self.done: set[int] = set()
        if lines[0] == head and os.fstat(handle).st_size == size:
            self.done |= {int(line) for line in lines[1:-1] if line.isdigit()}  # the last one may be cut off
        else:
            notes.unlink(missing_ok=True)
            os.ftruncate(handle, 0)
            os.ftruncate(handle, size)
        self._log = os.open(notes, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.write(self._log, b"\n" if self.done else f"{head}\n".encode())

    @classmethod
    @contextlib.contextmanager
    def opened(cls, path: Path, tag: str, size: int) -> Iterator[PartialFile]:
        """The partial file of `path`, locked; one of another name while another process has it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        name = path.name
        while True:
            place, notes = path.with_name(name + PARTIAL), path.with_name(name + PARTS)
            handle = os.open(place, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(handle)
                name = f"{path.name}.{secrets.token_hex(4)}"
                continue
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(handle), os.stat(place)):
                    break
            os.close(handle)  # it was finished, and got its name, just before it was locked
        try:
            partial = cls(path, handle, place, notes, tag, size)
            try:
                yield partial
            finally:
                os.close(partial._log)
        finally:
            os.close(handle)

    def write(self, start: int, data: bytes) -> None:
        written = 0
        while written < len(data):
            written += os.pwrite(self._handle, memoryview(data)[written:], start + written)

    def note(self, item: Slice) -> None:
        """This part is written."""
        os.write(self._log, f"{item.number}\n".encode())

    def feed(self, item: Slice, total: Hash) -> None:
        """Hash a part that is written."""
        at, end = item.start, item.start + item.length
        piece = memoryview(bytearray(PIECE))
        while at < end:
            length = os.preadv(self._handle, [piece[: end - at]], at)
            if not length:
                raise Interrupted(f"{self._place}: it was cut off by somebody else; run it again")
            total.update(piece[:length])
            at += length

    def finish(self) -> None:
        """Give the whole file its name."""
        os.replace(self._place, self._path)
        self._notes.unlink()


@functools.cache
def boot() -> str:
    """Identity of this boot of this machine; of this process where the system does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return secrets.token_hex(16)
