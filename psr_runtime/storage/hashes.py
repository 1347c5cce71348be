"""Digests of content: sha256, by which content is named, and a composite BLAKE3, by which it is verified sooner.

BLAKE3 (O'Connor, Aumasson, Neves, Wilcox-O'Hearn, 2020) is a cryptographic hash, about four times as fast as sha256
on a processor with instructions for it. Composite, as S3 calls it, is a digest of the digests of parts: BLAKE3 of the
BLAKE3 digests (32 bytes each, in order) of a file's parts of 16 MiB. So parts that come in any order are each hashed
while they are in the processor's cache. The package is imported when it is first needed: the operator has none.
"""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import Literal, Protocol

HashName = Literal["sha256", "composite_blake3"]

PART = 16 << 20
"""Bytes of a part. Digests that are written in manifests depend on it."""
PIECE = 1 << 18
"""Bytes that are read and hashed at a time: they stay in the processor's cache between the two."""


class Hash(Protocol):
    """A hash in the making, as `hashlib` makes them."""

    def update(self, data: bytes | memoryview, /) -> object: ...
    def digest(self) -> bytes: ...


class Composite:
    """The composite BLAKE3 of content that comes in order, or part by part.

    Raises:
        ImportError: the package of BLAKE3 is not here (`has_blake3`).
    """

    def __init__(self) -> None:
        self._total, self._part, self._length = self.part(), self.part(), 0

    @staticmethod
    def part() -> Hash:
        """The hash of one part."""
        from blake3 import blake3

        return blake3()

    def add(self, part: Hash) -> None:
        """The next part, which is whole."""
        self._total.update(part.digest())

    def update(self, data: bytes | memoryview, /) -> None:
        view = memoryview(data)
        while view:
            piece = view[: PART - self._length]
            self._part.update(piece)
            self._length += len(piece)
            if self._length == PART:
                self._end_part()
            view = view[len(piece) :]

    def digest(self) -> bytes:
        """Nothing can be added afterwards."""
        if self._length:
            self._end_part()
        return self._total.digest()

    def _end_part(self) -> None:
        self.add(self._part)
        self._part, self._length = self.part(), 0


def new_hash(name: HashName) -> Hash:
    """The hash of no bytes yet.

    Raises:
        ImportError: it is BLAKE3, and its package is not here (`has_blake3`).
    """
    return hashlib.sha256() if name == "sha256" else Composite()


@functools.cache
def has_blake3() -> bool:
    """Whether BLAKE3 can be computed here."""
    try:
        import blake3  # noqa: F401
    except ImportError:
        return False
    return True


def digest_of(path: Path, name: HashName) -> str:
    """Digest of a file's content, 64 hexadecimal digits."""
    total = new_hash(name)
    _feed(path, total)
    return total.digest().hex()


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, 64 hexadecimal digits."""
    return digest_of(path, "sha256")


def digests_of(path: Path) -> dict[HashName, str]:
    """Every digest of a file's content that can be computed here, 64 hexadecimal digits each, by reading it once."""
    names: tuple[HashName, ...] = ("sha256", "composite_blake3") if has_blake3() else ("sha256",)
    totals = {name: new_hash(name) for name in names}
    _feed(path, *totals.values())
    return {name: total.digest().hex() for name, total in totals.items()}


def _feed(path: Path, *totals: Hash) -> None:
    piece = memoryview(bytearray(PIECE))
    with open(path, "rb", buffering=0) as file:
        while length := file.readinto(piece):
            for total in totals:
                total.update(piece[:length])
