"""Every reason that a condition or an event of ours can have, with what it means and what a user does about it.

The table of docs/operator.md is made from here. A reason whose class is FINAL stays until the object or its data is
changed; WAITING ends when something outside of PSR changes; PASSING ends by itself.
"""

from __future__ import annotations

from enum import Enum, StrEnum


class Class(Enum):
    """What becomes of an object with a reason if nobody does anything."""

    FINAL = "final"
    WAITING = "waiting"
    PASSING = "passing"


class Reason(StrEnum):
    """A reason, as it stands in conditions and events."""

    # work that goes on
    STARTING = "Starting"
    PENDING = "Pending"
    FINE_TUNING = "FineTuning"
    GENERATING = "Generating"
    SEARCHING = "Searching"
    MERGING = "Merging"
    TRAINING = "Training"
    EVALUATING = "Evaluating"
    REPORTING = "Reporting"
    ITERATING = "Iterating"
    PRUNING = "Pruning"
    RETRYING = "Retrying"
    RERUNNING = "Rerunning"
    FAILING = "Failing"
    LOADING = "Loading"
    RELEASING = "Releasing"
    WAITING_FOR_PODS = "WaitingForPods"
    WAITING_FOR_GPUS = "WaitingForGPUs"
    WAITING_FOR_SERVER = "WaitingForServer"
    # rest and success
    SUSPENDED = "Suspended"
    IDLE = "Idle"
    SERVING = "Serving"
    SUCCEEDED = "Succeeded"
    # failures
    CONFIGURATION_ERROR = "ConfigurationError"
    DATA_ERROR = "DataError"
    INPUT_MISSING = "InputMissing"
    STORAGE_IN_USE = "StorageInUse"
    WEIGHTS_PRUNED = "WeightsPruned"
    TEMPORARY = "Temporary"
    NOT_SUPPORTED = "NotSupported"
    INVALID_SPEC = "InvalidSpec"
    BACKOFF_LIMIT_EXCEEDED = "BackoffLimitExceeded"
    TOO_MANY_DISRUPTIONS = "TooManyDisruptions"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    SCHEDULING_DEADLINE_EXCEEDED = "SchedulingDeadlineExceeded"
    OUT_OF_MEMORY = "OutOfMemory"
    SERVER_FAILED = "ServerFailed"
    PRUNE_FAILED = "PruneFailed"
