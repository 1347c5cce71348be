"""The door of data: every record is read by what its fields are, and a wrong one is an error that names its place.

A stage asks for the records of a kind (`read_records`, `read_pairs`). They stand in a file or a folder, in any form
that `files.py` and `schemas` know. PSR's own files (pair sets, trees, predictions) are JSON lines of one kind.
"""

from __future__ import annotations

import itertools
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from psr_runtime.artefacts.fetching import read_file
from psr_runtime.artefacts.manifest import read_manifest
from psr_runtime.data.files import Row, rows_of
from psr_runtime.data.layout import Files, files_of
from psr_runtime.data.records import PAIRS, Pair, Preference, StepLabel
from psr_runtime.data.schemas import (
    KINDS,
    Dropped,
    Purpose,
    Reads,
    Schema,
    WrongField,
    accepted,
    example_line,
    schema_of,
)
from psr_runtime.data.schemas.base import has_problem
from psr_runtime.protocol.errors import DataError
from psr_runtime.storage import Storage, join

R = TypeVar("R", bound=BaseModel)
ONE_SIDED = "a step without a sibling of the other label"
REPEATED = "a problem that stands there already"


@dataclass
class Door:
    """The records of one purpose at one URI, and what was met on the way.

    Attributes:
        files: what is read.
        rows: rows that were read.
        forms: how many of them had each form.
        dropped: how many held nothing for the purpose, by the reason.
        fields: names of the first row's fields.
    """

    storage: Storage
    uri: str
    purpose: Purpose
    files: Files
    rows: int = 0
    forms: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    fields: list[str] = field(default_factory=list)

    def records(self) -> Iterator[BaseModel]:
        """The records, in order: `Purpose.kind`, and for pairs also `Preference`.

        Raises:
            InputMissing: no such file.
            DataError: a wrong record; or none at all.
        """
        siblings = Siblings()
        seen: set[str] = set()
        any_record = False
        for row in itertools.chain.from_iterable(rows_of(self.storage, uri) for uri in self.files.uris):
            for record, schema in self._read(row):
                if self.purpose is Purpose.PROBLEMS and schema.repeats and not has_problem(row.value):
                    text = getattr(record, "problem", "")
                    if text in seen:
                        self.dropped[REPEATED] += 1
                        continue
                    seen.add(text)
                if isinstance(record, StepLabel):
                    siblings.add(record)
                    continue
                any_record = True
                yield record
        for preference in siblings.preferences():
            any_record = True
            yield preference
        if siblings.one_sided:
            self.dropped[ONE_SIDED] += siblings.one_sided
        if not any_record:
            raise self._nothing()

    def said(self) -> list[str]:
        """What a person should know: the split that was read, and what held nothing."""
        lines = []
        if self.files.others:
            lines.append(f"{self.uri}: split {self.files.split} read; not {', '.join(self.files.others)}")
        for reason, count in self.dropped.items():
            lines.append(f"{self.uri}: not read as {self.purpose}: {reason} ({count})")
        return lines

    def _read(self, row: Row) -> Iterator[tuple[BaseModel, Schema]]:
        """The records of a row, with its form."""
        if not isinstance(row.value, Mapping):
            raise row.fault(f"must be an object with fields; {self._right()}")
        if not self.rows:
            self.fields = list(row.value)
        self.rows += 1
        schema = schema_of(row.value, self.purpose)
        cell = schema.cells[self.purpose] if schema is not None else "the record has no form that is known"
        if schema is None or not isinstance(cell, Reads):
            form = f"this is {schema.name}: {cell}" if schema is not None else cell
            raise row.fault(f"{_own_fault(row.value, self.purpose)} ({form}); {self._right()}")
        try:
            for record in cell.read(row.value):
                yield record, schema
        except Dropped as reason:
            self.dropped[str(reason)] += 1
        except ValidationError as error:
            raise row.fault(f"{_first_fault(error)}; a right record: {example_line(schema)}") from error
        except WrongField as error:
            raise row.fault(f"{error}; a right record of {schema.name}: {example_line(schema)}") from error
        self.forms[schema.name] += 1

    def _right(self) -> str:
        own, *others = accepted(self.purpose)
        forms = "; ".join(f"{schema.name} ({schema.marks.replace('`', '')})" for schema in others)
        return f"a right record: {example_line(own)}; also read as {self.purpose}: {forms}"

    def _nothing(self) -> DataError:
        if not self.rows:
            return DataError(f"{self.uri}: the file is empty; expected one {self.purpose.kind.__name__} a line")
        why = "; ".join(f"{reason} ({count})" for reason, count in self.dropped.items())
        return DataError(f"{self.uri}: nothing in it is read as {self.purpose} ({why}); {self._right()}")


class Siblings:
    """Step labels, by problem and the steps before: of each such group a right and a wrong step are a preference."""

    def __init__(self) -> None:
        self._groups: dict[tuple[str, tuple[str, ...]], dict[bool, str]] = {}
        self.one_sided = 0

    def add(self, label: StepLabel) -> None:
        """The first step of each label counts."""
        self._groups.setdefault((label.problem, label.steps), {}).setdefault(label.right, label.step)

    def preferences(self) -> Iterator[Preference]:
        """One of each group that has both, in the order of the groups."""
        for (problem, steps), group in self._groups.items():
            if len(group) == 2 and group[True] != group[False]:
                yield Preference(problem=problem, steps=list(steps), chosen=group[True], rejected=group[False])
            else:
                self.one_sided += 1


def open_door(storage: Storage, uri: str, purpose: Purpose, split: str | None = None) -> Door:
    """The door to the data at a URI: a file, or a folder, of which one split is read.

    Raises:
        InputMissing: nothing is there.
        DataError: a folder without data files, or whose split nobody can tell.
    """
    return Door(storage, uri, purpose, files_of(storage, uri, preferred=purpose.preferred_split, split=split))


def read_records(storage: Storage, uri: str, kind: type[R]) -> list[R]:
    """Every record of a data set that people brought, or of a JSON-lines file of PSR's own.

    What of the data is not read is said on stderr.

    Raises:
        InputMissing: nothing is there.
        DataError: a record is wrong; the message names file, line and field, and shows a right one.
    """
    purpose = next((purpose for purpose, own in KINDS.items() if own is kind and purpose is not Purpose.PAIRS), None)
    if purpose is None:
        return list(parse_records(storage.read(uri).decode("utf-8", errors="surrogateescape"), uri, kind))
    door = open_door(storage, uri, purpose)
    records: list[Any] = list(door.records())
    print_said(door)
    return records


def print_said(door: Door) -> None:
    """Say on stderr what of the data is not read."""
    for line in door.said():
        print(line, file=sys.stderr)


def parse_records(text: str, source: str, kind: type[R], *, empty: bool = False) -> Iterator[R]:
    """Records of JSON-lines text of one kind. Empty lines are skipped.

    Args:
        empty: whether text without any record is fine.

    Raises:
        DataError: a line is broken; the message names file, line and field.
    """
    any_record = empty
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        any_record = True
        try:
            yield kind.model_validate_json(line)
        except ValidationError as error:
            raise DataError(f"{source}, line {number}: {_first_fault(error)}") from error
        except UnicodeError as error:
            raise DataError(f"{source}, line {number}: not UTF-8") from error
    if not any_record:
        raise DataError(f"{source}: the file is empty; expected one {kind.__name__} a line")


def read_pairs(storage: Storage, uri: str) -> list[Pair | Preference]:
    """The pairs of a pair set, verified against its manifest; or those of a data set that people brought.

    Raises:
        InputMissing: nothing is there.
        DataError: changed, broken, or without any pair.
    """
    if read_manifest(storage, uri) is None:
        door = open_door(storage, uri, Purpose.PAIRS)
        brought: list[Any] = list(door.records())
        print_said(door)
        return brought
    place = join(uri, PAIRS)
    pairs = list(parse_records(read_file(storage, uri, PAIRS).decode("utf-8"), place, Pair, empty=True))
    if not pairs:
        raise DataError(
            f"{place}: the search made no pair, so there is nothing to train on: no level had a better and a worse "
            "candidate; search more questions, or with a higher temperature or width"
        )
    return [*pairs]


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


def _first_fault(error: ValidationError) -> str:
    fault = error.errors()[0]
    return f"{'.'.join(str(part) for part in fault['loc']) or 'the line'}: {fault['msg']}"


def _own_fault(value: Mapping[str, Any], purpose: Purpose) -> str:
    """What is wrong with a record, seen as one of the purpose's own form."""
    if purpose is Purpose.PAIRS and not any(name.endswith("_ids") for name in value):
        return "the record holds no preference"
    try:
        purpose.kind.model_validate(value)
    except ValidationError as error:
        return _first_fault(error)
    return "not read"
