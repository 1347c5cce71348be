"""How a stage ends when it cannot go on: one exception a kind, each with its exit code and reason.

The codes are the stage contract (`protocol.ExitCode`): 64, 65 and 66 are never retried and their message says what to
change; 75 is retried; anything that is not a `StageError` is an infrastructure failure. The reason is for programs, the
message for people: nobody looks into a message to decide something.
"""

from __future__ import annotations

from typing import ClassVar

from psr_runtime.protocol import ExitCode, FailureReason


class StageError(Exception):
    """Base: a stage ended in a way that its message explains.

    Attributes:
        exit_code: by which its process ends.
        reason: the word for conditions.
    """

    exit_code: ClassVar[ExitCode]
    reason: ClassVar[FailureReason]


class ConfigurationError(StageError):
    """The configuration is wrong; change the manifest."""

    exit_code = ExitCode.CONFIGURATION_ERROR
    reason = FailureReason.CONFIGURATION_ERROR


class DataError(StageError):
    """An input's content is wrong; change the data."""

    exit_code = ExitCode.DATA_ERROR
    reason = FailureReason.DATA_ERROR


class StorageInUse(DataError):
    """The place belongs to another object; choose another one."""

    reason = FailureReason.STORAGE_IN_USE


class InputMissing(StageError):
    """An input is not there or cannot be reached with these credentials."""

    exit_code = ExitCode.INPUT_MISSING
    reason = FailureReason.INPUT_MISSING


class WeightsPruned(InputMissing):
    """The weights of a checkpoint were removed by retention."""

    reason = FailureReason.WEIGHTS_PRUNED


class Interrupted(StageError):
    """Stopped, or something outside is not available for now; the same call goes on later."""

    exit_code = ExitCode.TEMPORARY
    reason = FailureReason.TEMPORARY
