"""Rows of one data file: JSON lines, a JSON array, CSV, Parquet or Arrow, as it is or packed by gzip or zstd.

The form is told by the first bytes; only CSV is told by its name, or by a first line that is a header. Files are read
piece by piece, so their size does not matter. What the rows mean is no matter here (`schemas`).
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import gzip
import io
import itertools
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from pydantic_core import from_json

from psr_runtime.protocol import SCRATCH_VARIABLE
from psr_runtime.protocol.errors import DataError
from psr_runtime.storage import Storage
from psr_runtime.storage.files import CHUNK, file_errors

PACKED = (".gz", ".gzip", ".zst", ".zstd")
"""Endings of names of packed files."""
GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
PARQUET, ARROW_FILE, ARROW_STREAM = b"PAR1", b"ARROW1", b"\xff\xff\xff\xff"
LFS_POINTER = b"version https://git-lfs"
HEAD = 4096
"""Bytes by which a form is told."""
BATCH = 256
"""Rows of a Parquet or Arrow file that are turned into Python values at a time."""
STRUCTURED = frozenset(
    {"steps", "completions", "labels", "messages", "reasoning_steps", "path_ids", "prompt_ids", "chosen_ids"}
    | {"rejected_ids", "scores", "multiplicity"}
)
"""Fields that hold lists: in a CSV cell they stand as JSON."""
MESSAGES = frozenset({"prompt", "chosen", "rejected"})
"""Fields that hold text, or a list of chat messages, which in a CSV cell stands as JSON."""


@dataclass(frozen=True)
class Row:
    """One row, or line, or element of an array.

    Attributes:
        source: URI of the file.
        place: where in it, for messages: `line 3`, `row 3`, `record 3`.
        value: what stands there, as JSON values; nothing else is known of it.
    """

    source: str
    place: str
    value: Any

    def fault(self, text: str) -> DataError:
        """The error that says what is wrong with this row."""
        return DataError(f"{self.source}, {self.place}: {text}")


def rows_of(storage: Storage, uri: str) -> Iterator[Row]:
    """The rows of one file, in order.

    Raises:
        InputMissing: no such file.
        DataError: its form is broken; the message names file and line.
    """
    with _on_this_machine(storage, uri) as path, file_errors(uri), _unpacked(path, uri) as stream:
        head = _peek(stream)
        if head.startswith(LFS_POINTER):
            raise DataError(f"{uri}: is a Git LFS pointer and not the data; run git lfs pull where it comes from")
        if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) and not head.startswith(ARROW_STREAM):
            raise DataError(f"{uri}: is UTF-16; save it as UTF-8")
        if head.startswith(PARQUET):
            with _seekable(stream) as file:
                yield from _table_rows(uri, _parquet_batches(file))
        elif head.startswith((ARROW_FILE, ARROW_STREAM)):
            yield from _table_rows(uri, _arrow_batches(stream, whole=head.startswith(ARROW_FILE)))
        elif _is_csv(uri, head):
            yield from _csv_rows(uri, stream)
        elif head.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"["):
            yield from _array_rows(uri, stream)
        else:
            yield from _line_rows(uri, stream)


# --- bytes ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _on_this_machine(storage: Storage, uri: str) -> Iterator[Path]:
    """A path that holds the file's bytes: its own, or that of a copy which is removed afterwards."""
    path = storage.local_path(uri)
    if path is not None:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="psr-data-", dir=os.environ.get(SCRATCH_VARIABLE) or None) as folder:
        copy = Path(folder, "file")
        storage.download(uri, copy)
        yield copy


@contextlib.contextmanager
def _unpacked(path: Path, uri: str) -> Iterator[io.BufferedReader]:
    """The bytes of a file after gzip or zstd, if it is packed."""
    with contextlib.ExitStack() as stack:
        plain = stack.enter_context(open(path, "rb"))
        head = plain.peek(4)
        if head.startswith(GZIP):
            unzipped = stack.enter_context(gzip.GzipFile(fileobj=plain))
            stream = stack.enter_context(io.BufferedReader(cast(Any, unzipped), CHUNK))
        elif head.startswith(ZSTD):
            import pyarrow

            unzipped = stack.enter_context(pyarrow.CompressedInputStream(plain, "zstd"))
            stream = stack.enter_context(io.BufferedReader(cast(Any, unzipped), CHUNK))
        else:
            stream = plain
        try:
            yield stream
        except (EOFError, gzip.BadGzipFile, OSError) as error:
            if stream is plain or getattr(error, "errno", None):
                raise
            raise DataError(f"{uri}: it cannot be unpacked ({error}); the file is truncated or foreign") from error


def _peek(stream: io.BufferedReader) -> bytes:
    return stream.peek(HEAD)[:HEAD]


@contextlib.contextmanager
def _seekable(stream: io.BufferedReader) -> Iterator[BinaryIO]:
    """The stream itself, or a copy of what it unpacks: Parquet is read from its end."""
    if isinstance(stream.raw, io.FileIO):
        yield stream
        return
    with tempfile.TemporaryFile(dir=os.environ.get(SCRATCH_VARIABLE) or None) as copy:
        shutil.copyfileobj(stream, copy, CHUNK)
        copy.seek(0)
        yield cast(BinaryIO, copy)


# --- text ----------------------------------------------------------------------------------------------------


def _line_rows(uri: str, stream: io.BufferedReader) -> Iterator[Row]:
    """JSON lines. Empty lines are skipped; a byte order mark and carriage returns do not matter."""
    for number, line in enumerate(stream, 1):
        text = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
        if not text.strip():
            continue
        row = Row(uri, f"line {number}", None)
        try:
            yield Row(uri, row.place, from_json(text.decode("utf-8")))
        except UnicodeDecodeError as error:
            raise row.fault("not UTF-8") from error
        except ValueError as error:
            raise row.fault(f"the line: Invalid JSON: {error}") from error


def _array_rows(uri: str, stream: io.BufferedReader) -> Iterator[Row]:
    """The elements of one JSON array, each as soon as it is whole."""
    text = io.TextIOWrapper(stream, encoding="utf-8-sig")
    decoder = json.JSONDecoder()
    try:
        buffer = text.read(CHUNK).lstrip()[1:]
        for number in itertools.count(1):
            row = Row(uri, f"record {number}", None)
            while not (buffer := buffer.lstrip()):
                if not (buffer := text.read(CHUNK)):
                    raise row.fault("the array is not closed; the file is cut off")
            if buffer.startswith("]"):
                return
            while True:
                try:
                    value, end = decoder.raw_decode(buffer)
                    break
                except json.JSONDecodeError as error:
                    more = text.read(max(CHUNK, len(buffer)))  # as much again: no record is parsed often
                    if not more:
                        raise row.fault(f"Invalid JSON: {error.msg}") from error
                    buffer += more
            yield Row(uri, row.place, value)
            buffer = buffer[end:].lstrip() or text.read(CHUNK).lstrip()
            if buffer.startswith(","):
                buffer = buffer[1:]
            elif not buffer.startswith("]"):
                raise row.fault("neither a comma nor the end of the array follows")
    except UnicodeDecodeError as error:
        raise DataError(f"{uri}: not UTF-8 ({error.reason} at byte {error.start} of a piece)") from error
    finally:
        text.detach()


def _is_csv(uri: str, head: bytes) -> bool:
    """Whether a file is CSV: by its name, or by a first line of two names or more that is no JSON."""
    name = uri.rstrip("/").lower()
    for ending in PACKED:
        name = name.removesuffix(ending)
    if name.endswith((".csv", ".tsv")):
        return True
    first = head.removeprefix(codecs.BOM_UTF8).split(b"\n")[0].strip()
    return re.fullmatch(rb'"?\w+"?([,;\t]"?\w+"?)+', first) is not None


def _csv_rows(uri: str, stream: io.BufferedReader) -> Iterator[Row]:
    """Rows below a header; cells are text, lists stand in them as JSON, and an empty cell is no field."""
    first = _peek(stream).split(b"\n")[0]
    delimiter = max(",;\t", key=lambda sign: first.count(sign.encode()))
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
    csv.field_size_limit(2**31 - 1)
    lines = csv.reader(text, delimiter=delimiter, strict=True)
    try:
        header = [name.strip() for name in next(lines, [])]
        for name in header:
            if header.count(name) > 1:
                raise DataError(f"{uri}, line 1: the column {name!r} stands twice")
        for cells in lines:
            if not cells:
                continue
            row = Row(uri, f"line {lines.line_num}", None)
            if len(cells) != len(header):
                raise row.fault(f"{len(cells)} cells where the header has {len(header)}")
            fields = {name: cell for name, cell in zip(header, cells, strict=True) if cell != ""}
            yield Row(uri, row.place, {name: _cell(row, name, cell) for name, cell in fields.items()})
    except csv.Error as error:
        raise DataError(f"{uri}, line {lines.line_num}: {error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{uri}, after line {lines.line_num}: not UTF-8; save it as UTF-8") from error
    finally:
        text.detach()


def _cell(row: Row, name: str, text: str) -> Any:
    if name in STRUCTURED or (name in MESSAGES and re.match(r"\s*\[\s*\{", text)):
        try:
            return from_json(text)
        except ValueError as error:
            raise row.fault(f"{name}: a cell with a list holds it as JSON ({error})") from error
    return text


# --- tables --------------------------------------------------------------------------------------------------


def _table_rows(uri: str, batches: Iterator[Any]) -> Iterator[Row]:
    """Rows of record batches; a null is no field."""
    import pyarrow

    number = 0
    try:
        for batch in batches:
            for start in range(0, batch.num_rows, BATCH):
                for value in batch.slice(start, BATCH).to_pylist():
                    number += 1
                    present = {name: item for name, item in value.items() if item is not None}
                    yield Row(uri, f"row {number}", present)
    except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError) as error:
        raise DataError(f"{uri}, after row {number}: it cannot be read ({error}); the file is broken") from error


def _parquet_batches(file: BinaryIO) -> Iterator[Any]:
    from pyarrow import parquet

    yield from parquet.ParquetFile(file).iter_batches(batch_size=BATCH)


def _arrow_batches(stream: io.BufferedReader, *, whole: bool) -> Iterator[Any]:
    """Batches of the Arrow file format (`whole`), or of its stream format, which data sets are saved in."""
    from pyarrow import ipc

    if not whole:
        yield from ipc.open_stream(stream)
        return
    reader = ipc.open_file(io.BytesIO(stream.read()))
    for number in range(reader.num_record_batches):
        yield reader.get_batch(number)
