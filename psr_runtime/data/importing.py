"""`psr data import`: data in any form become a JSON-lines file of PSR's own records, once and as a whole."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from psr_runtime.data.reading import Door, with_ids
from psr_runtime.data.records import Preference
from psr_runtime.data.schemas import Purpose
from psr_runtime.data.tokenised import PairEncoder
from psr_runtime.protocol import SCRATCH_VARIABLE
from psr_runtime.protocol.errors import ConfigurationError, DataError
from psr_runtime.storage import Storage, sha256_of


@dataclass(frozen=True)
class Imported:
    """What an import did, or would do.

    Attributes:
        read: rows of the source.
        written: records of the file.
        dropped: rows or steps that held nothing for the purpose, by the reason.
        forms: rows of each form.
        sha256: of the file.
        present: whether this very content stood there already.
        said: what else a person should know.
    """

    source: str
    purpose: Purpose
    to: str
    read: int
    written: int
    dropped: dict[str, int]
    forms: dict[str, int]
    sha256: str
    present: bool
    said: list[str]


def import_data(door: Door, to: str, encoder: PairEncoder | None, *, dry_run: bool = False) -> Imported:
    """Convert the data behind a door into one JSON-lines file.

    Args:
        to: URI of the file. What stands there stays; nothing is ever half-written.
        encoder: makes pairs of preferences that are text.
        dry_run: convert and write nothing.

    Raises:
        ConfigurationError: `to` names no file, or preferences are text and there is no encoder.
        InputMissing: the source is not there.
        DataError: a record is wrong, or `to` holds something else.
    """
    with tempfile.TemporaryDirectory(prefix="psr-data-", dir=os.environ.get(SCRATCH_VARIABLE) or None) as folder:
        path = Path(folder, "records.jsonl")
        written = 0
        with open(path, "w", encoding="utf-8") as file:
            for record in _converted(door, encoder):
                file.write(line_of(record))
                written += 1
        sha256 = sha256_of(path)
        present = _stands_there(door.storage, to, sha256)
        if not dry_run and not present:
            door.storage.upload(path, to, sha256=sha256)
    said = [*door.said(), *(encoder.said() if encoder is not None else [])]
    dropped, forms = dict(door.dropped), dict(door.forms)
    return Imported(door.uri, door.purpose, to, door.rows, written, dropped, forms, sha256, present, said)


def line_of(record: BaseModel) -> str:
    """A record as a JSON line, without fields that say nothing."""
    return json.dumps(record.model_dump(mode="json", exclude_none=True), ensure_ascii=False) + "\n"


def _converted(door: Door, encoder: PairEncoder | None) -> Iterator[BaseModel]:
    if door.purpose in (Purpose.PROBLEMS, Purpose.EVALUATION):
        yield from with_ids(door.records())
        return
    records: Iterator[Any] = door.records()
    for number, record in enumerate(records, 1):
        if not isinstance(record, Preference):
            yield record
        elif encoder is not None:
            yield encoder.pair(record, number)
        else:
            raise ConfigurationError(
                f"{door.uri}: its preferences are text; name the model that is to be trained on them (--model URI), "
                "whose tokenizer makes ids of them, or give the text to a StepDPOJob as it is"
            )


def _stands_there(storage: Storage, to: str, sha256: str) -> bool:
    """Whether the file stands there already with this content.

    Raises:
        ConfigurationError: a folder stands there.
        DataError: the file has other content.
    """
    objects = storage.list(to)
    if not objects and not to.endswith("/"):
        return False
    if to.endswith("/") or objects[0].uri != to:
        raise ConfigurationError(f"{to}: is a folder; name a file, as in {to.rstrip('/')}/records.jsonl")
    if storage.sha256(to) != sha256:
        raise DataError(f"{to}: holds other content, which stays; choose another name or remove it")
    return True
