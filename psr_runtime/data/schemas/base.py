"""What a schema is: by which fields a record is recognised, and what each purpose reads in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic import BaseModel

from psr_runtime.data.records import EFTRecord, GradedProblem, IFTRecord, Pair, SearchProblem

Fields = Mapping[str, Any]
"""A record as it stands in a file: JSON values by name."""


class Purpose(StrEnum):
    """What data are read for."""

    PROBLEMS = "problems"
    """Problems to search; their answers are not read."""
    EVALUATION = "evaluation"
    """Problems with answers, to evaluate a model."""
    IFT = "ift"
    """Solutions in steps, to learn solving from."""
    EFT = "eft"
    """Judgements of two steps, to learn judging from."""
    PAIRS = "pairs"
    """Preferences, for step-DPO."""

    @property
    def kind(self) -> type[BaseModel]:
        """The record that a purpose works with."""
        return KINDS[self]

    @property
    def preferred_split(self) -> str:
        """The split of a data set that is read where there are several."""
        return "test" if self is Purpose.EVALUATION else "train"


KINDS: Mapping[Purpose, type[BaseModel]] = {
    Purpose.PROBLEMS: SearchProblem,
    Purpose.EVALUATION: GradedProblem,
    Purpose.IFT: IFTRecord,
    Purpose.EFT: EFTRecord,
    Purpose.PAIRS: Pair,
}


class WrongField(ValueError):
    """A field does not hold what its schema says; the message begins with its name."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")


class Dropped(Exception):
    """A record is right and holds nothing for this purpose; the message says why, and is counted."""


@dataclass(frozen=True)
class Reads:
    """How a purpose reads a schema.

    Attributes:
        says: what is read as what, for people.
        read: the fields of a record -> the records that it holds for the purpose.
            Raises `pydantic.ValidationError` or `WrongField` for a wrong record, `Dropped` for one that holds nothing.
    """

    says: str
    read: Callable[[Fields], Sequence[BaseModel]]


@dataclass(frozen=True)
class Schema:
    """A form in which people have data.

    Attributes:
        name: as people call it.
        marks: the fields by which it is recognised, for people.
        fits: whether the fields of a record are those of this schema.
        example: a right record.
        cells: for each purpose how it is read, or why it is not.
        repeats: whether a problem stands in many of its records, so that one of each text is read.
    """

    name: str
    marks: str
    fits: Callable[[Fields], bool]
    example: Fields
    cells: Mapping[Purpose, Reads | str]
    repeats: bool = False


def is_text(fields: Fields, *names: str) -> bool:
    """Whether each of these fields is there and holds text."""
    return all(isinstance(fields.get(name), str) for name in names)


def has_problem(fields: Fields) -> bool:
    """Whether there is a problem's text under the names that PSR's own records have."""
    return any(isinstance(fields.get(name), str | int | float) for name in ("problem", "question"))


def text_of(fields: Fields, name: str) -> str:
    """The text of a field.

    Raises:
        WrongField: it is not there, is no text, or empty.
    """
    value = fields.get(name)
    if not isinstance(value, str) or not value.strip():
        raise WrongField(name, "must hold text" if name in fields else "Field required")
    return value
