"""Objects as compressed JSON, each against another one of its kind: most of an object is what its kind has in common.

Alone the JSON of an object shrinks to a half; next to another one it shrinks to a tenth, its hashes and times.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

WINDOW_BITS = -13
"""Deflate without a header and with 8 KiB to look back on: two objects of ours, and little to set up for each."""
MEMORY_LEVEL = 6
SAMPLE_BYTES = 8192
FULLER = 1.2
"""An object that is longer than the sample by this factor says more of its kind: it has a status already."""


class Packed(NamedTuple):
    """An object's JSON, and the sample that it was compressed against."""

    data: bytes
    sample: bytes

    def raw(self) -> dict[str, Any]:
        """The object."""
        raw: dict[str, Any] = json.loads(zlib.decompressobj(WINDOW_BITS, self.sample).decompress(self.data))
        return raw


class Packer:
    """Packs objects, and knows a sample of each kind.

    A sample grows by `FULLER` each time and up to `SAMPLE_BYTES`, so there are few of them, however long they are held.
    """

    def __init__(self) -> None:
        self._samples: dict[str, bytes] = {}

    def pack(self, kind: str, raw: Mapping[str, Any]) -> Packed:
        """Compress an object."""
        text = json.dumps(raw, separators=(",", ":")).encode()
        sample = self._samples.get(kind, b"")
        if len(text) > FULLER * len(sample) and len(sample) < SAMPLE_BYTES:
            sample = self._samples[kind] = text[-SAMPLE_BYTES:]
        press = zlib.compressobj(
            zlib.Z_DEFAULT_COMPRESSION, zlib.DEFLATED, WINDOW_BITS, MEMORY_LEVEL, zlib.Z_DEFAULT_STRATEGY, sample
        )
        return Packed(press.compress(text) + press.flush(), sample)
