"""In which forms people have data, and what each purpose reads in them: one table, `SCHEMAS`.

A record is recognised by its fields, never by the name of its file. docs/data.md prints the table. To add a form, write
its `Schema` and put it into the table, before those whose fields it has, too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from psr_runtime.data.schemas.base import KINDS, Dropped, Fields, Purpose, Reads, Schema, WrongField
from psr_runtime.data.schemas.labels import OMEGA, PRM800K, SHEPHERD, STEPWISE
from psr_runtime.data.schemas.preferences import (
    CHOSEN_JUDGEMENT,
    PAIR,
    STEP_DPO,
    TRL_JUDGEMENT,
    TRL_PREFERENCE,
)
from psr_runtime.data.schemas.solutions import GSM8K, JUDGEMENT, MATH, NUMINA, PROBLEM, SOLUTION_IN_STEPS

__all__ = [
    "KINDS",
    "SCHEMAS",
    "Dropped",
    "Fields",
    "Purpose",
    "Reads",
    "Schema",
    "WrongField",
    "accepted",
    "documented",
    "example_line",
    "reads",
    "schema_of",
]

SCHEMAS: Sequence[Schema] = (
    PAIR,
    JUDGEMENT,
    CHOSEN_JUDGEMENT,
    SOLUTION_IN_STEPS,
    PRM800K,
    SHEPHERD,
    OMEGA,
    STEP_DPO,
    STEPWISE,
    TRL_JUDGEMENT,
    TRL_PREFERENCE,
    GSM8K,
    NUMINA,
    MATH,
    PROBLEM,
)
"""Every form, in the order in which they are tried."""


def schema_of(fields: Fields, purpose: Purpose) -> Schema | None:
    """The form of a record: the first one that fits and that the purpose reads, else the first one that fits."""
    fitting = [schema for schema in SCHEMAS if schema.fits(fields)]
    readable = (schema for schema in fitting if isinstance(schema.cells[purpose], Reads))
    return next(readable, fitting[0] if fitting else None)


def reads(value: Any, purpose: Purpose) -> bool:
    """Whether a purpose can read what stands in a row, were it alone."""
    schema = schema_of(value, purpose) if isinstance(value, Mapping) else None
    cell = schema.cells[purpose] if schema is not None else None
    if not isinstance(cell, Reads):
        return False
    try:
        cell.read(value)
    except Dropped:
        return True
    except ValueError:
        return False
    return True


def example_line(schema: Schema) -> str:
    """A right record of a form, as a line of JSON."""
    return json.dumps(schema.example, ensure_ascii=False)


def accepted(purpose: Purpose) -> list[Schema]:
    """The forms that a purpose reads, the one that errors show first."""
    readable = [schema for schema in SCHEMAS if isinstance(schema.cells[purpose], Reads)]
    return sorted(readable, key=lambda schema: OWN[purpose] is not schema)


OWN = {
    Purpose.PROBLEMS: PROBLEM,
    Purpose.EVALUATION: PROBLEM,
    Purpose.IFT: SOLUTION_IN_STEPS,
    Purpose.EFT: JUDGEMENT,
    Purpose.PAIRS: STEP_DPO,
}
"""The form of each purpose that errors show: PSR's own, but for pairs, whose ids nobody writes by hand."""


def documented() -> str:
    """The table in Markdown, as docs/data.md has it."""
    lines = [
        "| form, recognised by | " + " | ".join(f"as {purpose}" for purpose in Purpose) + " |",
        "| --- |" + " --- |" * len(Purpose),
    ]
    for schema in SCHEMAS:
        cells = [
            f"{cell.says}" if isinstance(cell := schema.cells[purpose], Reads) else f"– ({cell})" for purpose in Purpose
        ]
        lines.append(f"| **{schema.name}**: {schema.marks} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
