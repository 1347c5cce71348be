"""What a check says: facts, warnings and errors, each with its field; how they are shown, and what they end in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from psr_runtime.protocol import ExitCode
from psr_runtime.protocol.errors import ConfigurationError, DataError, InputMissing, Interrupted, StageError

WORST_FIRST: tuple[type[StageError], ...] = (ConfigurationError, DataError, InputMissing, Interrupted)
"""Of several errors the first of these decides the exit code: what cannot pass by itself comes before what can."""
SHOWN_VALUE = 2000


class Severity(StrEnum):
    """How much a finding matters."""

    ERROR = "error"
    WARNING = "warning"
    FACT = "fact"


@dataclass(frozen=True)
class Finding:
    """One thing that a check has to say.

    Attributes:
        check: name of the check.
        field: of the manifest, `spec.problems` say.
        message: what is so; names file and line where there are any.
        todo: what to do about it; empty for facts.
        failure: how a stage would end by it; None for anything but errors.
    """

    severity: Severity
    check: str
    field: str
    message: str
    todo: str = ""
    failure: type[StageError] | None = None

    def to_json(self) -> dict[str, Any]:
        """For `psr check --json` and the artefact of the stage."""
        document: dict[str, Any] = {
            "severity": str(self.severity),
            "check": self.check,
            "field": self.field,
            "message": self.message[:SHOWN_VALUE],
        }
        if self.todo:
            document["todo"] = self.todo
        if self.failure is not None:
            document |= {"reason": str(self.failure.reason), "exitCode": int(self.failure.exit_code)}
        return document

    @property
    def line(self) -> str:
        """All of it in one line."""
        return f"{self.field}: {self.message}" + (f"; {self.todo}" if self.todo else "")


def error(check: str, field: str, message: str, todo: str, failure: type[StageError]) -> Finding:
    """A finding because of which the work would fail."""
    return Finding(Severity.ERROR, check, field, message, todo, failure)


def failed(check: str, field: str, cause: StageError, todo: str = "") -> Finding:
    """The error by which a stage would end; its message says what to do unless `todo` does."""
    return Finding(Severity.ERROR, check, field, str(cause), todo, type(cause))


def warning(check: str, field: str, message: str, todo: str) -> Finding:
    """A finding that makes results worse and stops nothing."""
    return Finding(Severity.WARNING, check, field, message, todo)


def fact(check: str, field: str, message: str) -> Finding:
    """What was measured."""
    return Finding(Severity.FACT, check, field, message)


def strict(findings: Sequence[Finding]) -> list[Finding]:
    """The findings with every warning as an error of the data."""
    return [
        Finding(Severity.ERROR, item.check, item.field, item.message, item.todo, DataError)
        if item.severity is Severity.WARNING
        else item
        for item in findings
    ]


def errors_of(findings: Sequence[Finding]) -> list[Finding]:
    """The errors, those that decide the exit code first."""
    return sorted(
        (item for item in findings if item.severity is Severity.ERROR),
        key=lambda item: next(
            (rank for rank, kind in enumerate(WORST_FIRST) if issubclass(item.failure or StageError, kind)), 0
        ),
    )


def exit_code(findings: Sequence[Finding]) -> ExitCode:
    """The contract's code of the worst finding."""
    errors = errors_of(findings)
    return errors[0].failure.exit_code if errors and errors[0].failure is not None else ExitCode.DONE


def raise_errors(findings: Sequence[Finding]) -> None:
    """End as a stage does, with all errors in one message and the class of the worst.

    Raises:
        StageError: where there is an error.
    """
    errors = errors_of(findings)
    if not errors:
        return
    worst = errors[0].failure or ConfigurationError
    if len(errors) == 1:
        raise worst(errors[0].line)
    raise worst(f"{len(errors)} errors. " + " ".join(f"({n}) {item.line}." for n, item in enumerate(errors, 1)))


def table(findings: Sequence[Finding], *, facts: bool = True) -> str:
    """The findings for people, worst first: severity, field and message, and below what to do."""
    order = [*errors_of(findings), *(item for item in findings if item.severity is Severity.WARNING)]
    if facts:
        order += [item for item in findings if item.severity is Severity.FACT]
    width = max((len(item.field) for item in order), default=0)
    lines = []
    for item in order:
        lines.append(f"{item.severity:<7}  {item.field:<{width}}  {item.message}")
        if item.todo:
            lines.append(f"{'':<7}  {'':<{width}}  → {item.todo}")
    return "\n".join(lines)
