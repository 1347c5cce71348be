"""Every reason that a condition or an event of ours can have, with what it means and what a user does about it.

A new reason is a member and a line of `TABLE`; the table of docs/operator.md and the exit codes of `psr run` follow.
A reason that is no member is an `OtherReason`: `<Kind>Rejected`, as back ends bring kinds of their own, or a word that
another version has stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum
from types import MappingProxyType

from psr_runtime.protocol import ExitCode, FailureReason


class Class(Enum):
    """What becomes of an object with a reason if nobody does anything."""

    FINAL = "final"
    """It stays until the object or its data is changed."""
    WAITING = "waiting"
    """It ends when something outside of the object changes."""
    PASSING = "passing"
    """It ends by itself."""


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
    # failures of stages and servers
    CONFIGURATION_ERROR = "ConfigurationError"
    DATA_ERROR = "DataError"
    INPUT_MISSING = "InputMissing"
    STORAGE_IN_USE = "StorageInUse"
    WEIGHTS_PRUNED = "WeightsPruned"
    TEMPORARY = "Temporary"
    SERVER_FAILED = "ServerFailed"
    PRUNE_FAILED = "PruneFailed"
    # limits
    BACKOFF_LIMIT_EXCEEDED = "BackoffLimitExceeded"
    TOO_MANY_DISRUPTIONS = "TooManyDisruptions"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    SCHEDULING_DEADLINE_EXCEEDED = "SchedulingDeadlineExceeded"
    # what cannot be made
    NOT_SUPPORTED = "NotSupported"
    INVALID_SPEC = "InvalidSpec"
    NAME_COLLISION = "NameCollision"
    CHILD_REJECTED = "ChildRejected"
    SERVICE_ACCOUNT_NOT_ALLOWED = "ServiceAccountNotAllowed"
    VOLUME_RESERVED = "VolumeReserved"
    VOLUME_MISSING = "VolumeMissing"
    MOUNT_RESERVED = "MountReserved"
    SHARDS_DIFFER = "ShardsDiffer"
    CONFIGURATION_TOO_LARGE = "ConfigurationTooLarge"


class OtherReason(str):
    """A reason that is no member of `Reason`."""

    __slots__ = ()


AnyReason = Reason | OtherReason


@dataclass(frozen=True)
class Meaning:
    """What a reason means.

    Attributes:
        kind: what becomes of it if nobody does anything.
        advice: what a user does about it, one sentence.
        exit_code: of `psr run` where an object is Stalled with it.
    """

    kind: Class
    advice: str
    exit_code: int = 1


def _passing(advice: str) -> Meaning:
    return Meaning(Class.PASSING, advice)


def _waiting(advice: str) -> Meaning:
    return Meaning(Class.WAITING, advice)


def _final(advice: str, exit_code: int = 1) -> Meaning:
    return Meaning(Class.FINAL, advice, exit_code)


TABLE: Mapping[Reason, Meaning] = MappingProxyType(
    {
        Reason.STARTING: _passing("nothing: the next attempt is being made"),
        Reason.PENDING: _waiting(
            "the message carries the words of the scheduler, the queue or the kubelet (node, quota, limit, image, "
            "volume); see that they are satisfied"
        ),
        Reason.FINE_TUNING: _passing("nothing: the first model is being made"),
        Reason.GENERATING: _passing("nothing: pairs are being generated"),
        Reason.SEARCHING: _passing("nothing: steps are being searched and judged"),
        Reason.MERGING: _passing("nothing: the shards of a search are being joined"),
        Reason.TRAINING: _passing("nothing: a model is being trained"),
        Reason.EVALUATING: _passing("nothing: a model is being evaluated"),
        Reason.REPORTING: _passing("nothing: the report is being written"),
        Reason.ITERATING: _passing("nothing: a round has begun"),
        Reason.PRUNING: _passing("nothing: weights that nobody reads any more are being removed"),
        Reason.RETRYING: _passing("read in the message why the last attempt ended; the next one comes after a pause"),
        Reason.RERUNNING: _passing("nothing: the work is made again once the last attempt has ended"),
        Reason.FAILING: _passing("read the message; the object is Stalled once its pods are gone"),
        Reason.LOADING: _passing("nothing: the server loads its model"),
        Reason.RELEASING: _passing("nothing: the server's pods are ending"),
        Reason.WAITING_FOR_PODS: _passing("nothing: the pods of the last attempt are ending"),
        Reason.WAITING_FOR_GPUS: _waiting("nothing: training starts once the server has released its GPUs"),
        Reason.WAITING_FOR_SERVER: _waiting("see why the server that the message names does not serve the model"),
        Reason.SUSPENDED: _waiting("set `suspend: false` to go on"),
        Reason.IDLE: _waiting("nothing: the server comes back when somebody reads its model"),
        Reason.SERVING: _passing("nothing: the server serves"),
        Reason.SUCCEEDED: _final("nothing: the work is done", ExitCode.DONE),
        Reason.CONFIGURATION_ERROR: _final(
            "correct the field that the message names; nothing is repeated until the spec changes",
            ExitCode.CONFIGURATION_ERROR,
        ),
        Reason.DATA_ERROR: _final("correct the file and line that the message names", ExitCode.DATA_ERROR),
        Reason.INPUT_MISSING: _final(
            "put the input where the message says, or correct its URI or the credentials", ExitCode.INPUT_MISSING
        ),
        Reason.STORAGE_IN_USE: _final(
            "another object owns the storage prefix: choose another `storage.uri` or output", ExitCode.DATA_ERROR
        ),
        Reason.WEIGHTS_PRUNED: _final(
            "retention has removed the weights of this model: name one that has them, or make it again",
            ExitCode.INPUT_MISSING,
        ),
        Reason.TEMPORARY: _final("something outside was not available: try again", ExitCode.TEMPORARY),
        Reason.SERVER_FAILED: _final("read the message and the server's log; then change its resources or engine"),
        Reason.PRUNE_FAILED: _final("an event: weights were not removed; the message says why"),
        Reason.BACKOFF_LIMIT_EXCEEDED: _final(
            "read why the last attempt failed; changing any field, `retries` say, gives the object another try"
        ),
        Reason.TOO_MANY_DISRUPTIONS: _final(
            "see why nodes evict the pods; changing any field, `retries` say, gives the object another try"
        ),
        Reason.DEADLINE_EXCEEDED: _final("raise `activeDeadlineSeconds`, which counts running time"),
        Reason.SCHEDULING_DEADLINE_EXCEEDED: _final(
            "raise `schedulingDeadlineSeconds`, which counts waiting for a node, or make room; a server goes on by "
            "itself once its pods start"
        ),
        Reason.NOT_SUPPORTED: _final(
            "training uses one GPU of one node so far: set `gpus` and `nodes` of `trainingResources` (of a training "
            "job: `resources`) to 1",
            ExitCode.CONFIGURATION_ERROR,
        ),
        Reason.INVALID_SPEC: _final(
            "the stored object says what this version cannot read: correct the field that the message names"
        ),
        Reason.NAME_COLLISION: _waiting(
            "an object of that name belongs to somebody else, or has lost its owner: remove it, or rename this one; it "
            "is looked for again every minute"
        ),
        Reason.CHILD_REJECTED: _final("the apiserver refuses a change of a child; the message says why"),
        Reason.SERVICE_ACCOUNT_NOT_ALLOWED: _final("have the operator allow the account, or name another one"),
        Reason.VOLUME_RESERVED: _final("rename the volume: every pod has one of that name"),
        Reason.VOLUME_MISSING: _final(
            "a `file://` URI lies on no volume of the pod: name a claim in `storage.volume`, or use `s3://`"
        ),
        Reason.MOUNT_RESERVED: _final("move the mount: it would hide one of the pod's own"),
        Reason.SHARDS_DIFFER: _final("report it: the shards of one search differ in more than their number"),
        Reason.CONFIGURATION_TOO_LARGE: _final("use fewer shards or shorter texts; a pod's variable has a limit"),
    }
)
"""What each reason means."""

REJECTED = _final("the apiserver refuses what was rendered, a field of `pod.affinity` say; the message names it")
"""What `<Kind>Rejected` means."""


def rejected(kind: str) -> OtherReason:
    """The reason of an object that the apiserver refuses to make: `JobRejected` say."""
    return OtherReason(f"{kind}Rejected")


def reason_of(word: str) -> AnyReason:
    """The reason that stands in a stored status, or that a stage has sent."""
    try:
        return Reason(word)
    except ValueError:
        return OtherReason(word)


def reason_of_failure(failure: FailureReason) -> Reason:
    """The reason of an object whose stage or server has failed like this."""
    return Reason(failure.value)


def meaning(reason: AnyReason) -> Meaning:
    """What a reason means; of one that is no member, what a rejection does."""
    return TABLE.get(reason, REJECTED) if isinstance(reason, Reason) else REJECTED


def exit_code(reason: str) -> int:
    """Exit code of `psr run` where an object is Stalled with this reason."""
    return int(meaning(reason_of(reason)).exit_code)


def documented() -> str:
    """The table of docs/operator.md."""
    lines = ["| reason | | what to do |", "| --- | --- | --- |"]
    lines += [f"| `{reason}` | {entry.kind.value} | {entry.advice} |" for reason, entry in TABLE.items()]
    lines.append(f"| `…Rejected`, with the kind before it | {REJECTED.kind.value} | {REJECTED.advice} |")
    return "\n".join(lines)
