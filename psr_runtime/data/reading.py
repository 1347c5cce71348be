"""The one reader of data sets: a wrong line is an error that names the file, the line and the field."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from pydantic import (
    BaseModel,
    ValidationError,
)

from psr_runtime.artefacts.fetching import read_file
from psr_runtime.artefacts.manifest import read_manifest
from psr_runtime.data.records import PAIRS, Pair
from psr_runtime.protocol.errors import DataError
from psr_runtime.storage import Storage, join

R = TypeVar("R", bound=BaseModel)


def read_records(storage: Storage, uri: str, kind: type[R]) -> list[R]:
    """Every record of a JSON-lines file.

    Raises:
        InputMissing: no such file.
        DataError: a line is broken; the message names file, line and field.
    """
    return list(parse_records(storage.read(uri).decode("utf-8", errors="surrogateescape"), uri, kind))


def parse_records(text: str, source: str, kind: type[R], *, empty: bool = False) -> Iterator[R]:
    """Records of JSON-lines text. Empty lines are skipped; see `read_records` for errors.

    Args:
        empty: whether text without any record is fine.
    """
    any_record = empty
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        any_record = True
        try:
            yield kind.model_validate_json(line)
        except ValidationError as error:
            fault = error.errors()[0]
            where = ".".join(str(part) for part in fault["loc"]) or "the line"
            raise DataError(f"{source}, line {number}: {where}: {fault['msg']}") from error
        except UnicodeError as error:
            raise DataError(f"{source}, line {number}: not UTF-8") from error
    if not any_record:
        raise DataError(f"{source}: the file is empty; expected one {kind.__name__} a line")


def read_pairs(storage: Storage, uri: str) -> list[Pair]:
    """The pairs of a pair set, verified against its manifest; or of a JSON-lines file of pairs.

    Raises:
        InputMissing: nothing is there.
        DataError: changed, broken, or without any pair.
    """
    if read_manifest(storage, uri) is None:
        return read_records(storage, uri, Pair)
    place = join(uri, PAIRS)
    pairs = list(parse_records(read_file(storage, uri, PAIRS).decode("utf-8"), place, Pair, empty=True))
    if not pairs:
        raise DataError(
            f"{place}: the search made no pair, so there is nothing to train on: no level had a better and a worse "
            "candidate; search more questions, or with a higher temperature or width"
        )
    return pairs


def with_ids(problems: Iterable[Any]) -> list[Any]:
    """Problems with an id each: their own, or `p<line>`; ids must be unique.

    Raises:
        DataError: an id stands twice.
    """
    seen: dict[str, int] = {}
    named = []
    for number, problem in enumerate(problems, 1):
        item = problem if problem.id else problem.model_copy(update={"id": f"p{number}"})
        if item.id in seen:
            raise DataError(
                f"record {number}: id {item.id!r} stands at record {seen[item.id]} already; make ids unique"
            )
        seen[item.id] = number
        named.append(item)
    return named
