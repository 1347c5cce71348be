"""How a stage ends when it cannot go on: one exception a kind, each with its exit code.

The codes are the stage contract: 64, 65 and 66 are never retried and their message says what to change; 75 is
retried; anything that is not a `StageError` is an infrastructure failure.
"""

from __future__ import annotations

WEIGHTS_PRUNED = "weights were pruned by retention"
"""Schema of an error by which a planner knows that a model will never be served again."""


class StageError(Exception):
    """Base: a stage ended in a way that its message explains."""

    exit_code = 1


class ConfigurationError(StageError):
    """The configuration is wrong; change the manifest."""

    exit_code = 64


class DataError(StageError):
    """An input's content is wrong; change the data."""

    exit_code = 65


class InputMissing(StageError):
    """An input is not there or cannot be reached with these credentials."""

    exit_code = 66


class Interrupted(StageError):
    """Stopped, or something outside is not available for now; the same call goes on later."""

    exit_code = 75
