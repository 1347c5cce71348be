"""What pods and whoever runs them say to each other: the operator, `psr run`, and the stages and servers themselves.

| what | where |
| --- | --- |
| how a stage ends | `ExitCode`, and `TerminationMessage` in the file that `TERMINATION_VARIABLE` names |
| how far it is | `ProgressReport` at `PROGRESS_PATH` |
| what a server does | `ServerReport` at `STATE_PATH` of its control port |
| which model it shall serve | `config.ModelOrder`, put to `MODEL_PATH` there |

Whatever is read here comes from a pod, so it is checked: a field of another type makes the whole report worthless. A
newer or older side may send more or fewer fields. `errors.py` has the exceptions by which a stage ends. Nothing but the
standard library is imported here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Any, TypeGuard

# --- variables, ports, paths, keys ---------------------------------------------------------------------------

CONFIG_VARIABLE = "PSR_STAGE_CONFIG"
"""The stage's configuration as JSON."""
SHARD_VARIABLE = "PSR_SHARD"
"""Index of this pod among those that share a configuration."""
TERMINATION_VARIABLE = "PSR_TERMINATION_MESSAGE"
"""File that gets the termination message."""
SCRATCH_VARIABLE = "PSR_SCRATCH"
"""Folder for half-done work."""
MOUNTS_VARIABLE = "PSR_MOUNTS"
"""`/mount=/folder,…`: folders of this machine that stand for volumes in `file://` URIs."""
PARENT_VARIABLE = "PSR_PARENT"
"""pid of the process that this one must not outlive."""
PROGRESS_HOST_VARIABLE = "PSR_PROGRESS_HOST"
PROGRESS_PORT_VARIABLE = "PSR_PROGRESS_PORT"
PROGRESS_PORT_FILE_VARIABLE = "PSR_PROGRESS_PORT_FILE"
KEY_VARIABLE = "PSR_SERVER_KEY"
"""Bearer key of a server's clients; unset: none is asked for."""
SECRET_KEY = "key"
"""Key of the bearer key in its Secret."""

PROGRESS_PORT = 8090
API_PORT = 8000

PROGRESS_PATH = "/progress"
STATE_PATH = "/psr/state"
READY_PATH = "/psr/ready"
MODEL_PATH = "/psr/model"

DIGEST_HEADER = "X-PSR-Model-Digest"
"""The model that a client wants an answer from."""

RESULT_BYTES = 2048
"""Largest termination message; Kubernetes keeps twice that at most."""


def control_port(api_port: int) -> int:
    """The control port of a server whose API is at `api_port`."""
    return api_port + 1


def key_secret_name(server: str) -> str:
    """Name of the Secret with a server's bearer key."""
    return f"{server}-key"


# --- how a stage ends ----------------------------------------------------------------------------------------


class ExitCode(IntEnum):
    """Exit codes of the stage contract. Anything else is a failure of the infrastructure."""

    DONE = 0
    CONFIGURATION_ERROR = 64
    DATA_ERROR = 65
    INPUT_MISSING = 66
    TEMPORARY = 75

    @property
    def final(self) -> bool:
        """Whether the same call would end the same way: it is never retried."""
        return self in FINAL


FINAL = frozenset({ExitCode.CONFIGURATION_ERROR, ExitCode.DATA_ERROR, ExitCode.INPUT_MISSING})


class FailureReason(StrEnum):
    """Why a stage or a server failed, as conditions name it."""

    CONFIGURATION_ERROR = "ConfigurationError"
    DATA_ERROR = "DataError"
    INPUT_MISSING = "InputMissing"
    TEMPORARY = "Temporary"
    STORAGE_IN_USE = "StorageInUse"
    WEIGHTS_PRUNED = "WeightsPruned"

    @classmethod
    def of_code(cls, code: int) -> FailureReason | None:
        """What an exit code says by itself; None for one that is not the contract's."""
        return _BY_CODE.get(code)


_BY_CODE: dict[int, FailureReason] = {
    ExitCode.CONFIGURATION_ERROR: FailureReason.CONFIGURATION_ERROR,
    ExitCode.DATA_ERROR: FailureReason.DATA_ERROR,
    ExitCode.INPUT_MISSING: FailureReason.INPUT_MISSING,
    ExitCode.TEMPORARY: FailureReason.TEMPORARY,
}


@dataclass(frozen=True)
class TerminationMessage:
    """What a stage leaves at its end: its result, or what went wrong.

    Attributes:
        result: URI and digest of the artefact and a few numbers; None for a stage that failed.
        error: what went wrong and what to do, for people.
        reason: the class of the error; None where it is unknown (an older image, a log's last lines).
    """

    result: Mapping[str, Any] | None = None
    error: str = ""
    reason: FailureReason | None = None

    def to_text(self) -> str:
        """JSON of at most `RESULT_BYTES` bytes. An error's text is cut so that it fits.

        Raises:
            ValueError: the result itself is larger.
        """
        if self.result is not None:
            text = json.dumps(dict(self.result))
            if len(text) > RESULT_BYTES:
                raise ValueError(f"the result is over {RESULT_BYTES} bytes")
            return text
        error = self.error
        while True:
            document = {"error": error} | ({"reason": str(self.reason)} if self.reason else {})
            text = json.dumps(document)
            if len(text) <= RESULT_BYTES:
                return text
            error = error[: len(error) * 3 // 4]

    @classmethod
    def read(cls, text: str) -> TerminationMessage:
        """A termination message as Kubernetes or a file gives it; of one that is no JSON, the end of the text."""
        try:
            document = json.loads(text)
        except ValueError:
            return cls(error=text.strip()[-600:])
        if not isinstance(document, dict):
            return cls()
        if isinstance(document.get("output"), str) and isinstance(document.get("digest"), str):
            return cls(result=document)
        try:
            reason = FailureReason(document["reason"]) if "reason" in document else None
        except ValueError:
            reason = None
        return cls(error=str(document.get("error", "")), reason=reason)


# --- how far it is -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ProgressReport:
    """What `PROGRESS_PATH` says of one process.

    Attributes:
        fraction: done, 0 to 1.
        eta: seconds left, None while unknown.
    """

    fraction: float
    eta: float | None = None

    @classmethod
    def read(cls, document: Any) -> ProgressReport | None:
        """From JSON values `done`, `total`, `eta`; None where they say nothing usable."""
        if not isinstance(document, Mapping):
            return None
        done, total, eta = document.get("done"), document.get("total"), document.get("eta")
        if not _is_number(done) or not _is_number(total) or total <= 0 or done < 0:
            return None
        return cls(min(1.0, done / total), float(eta) if _is_number(eta) and 0 <= eta < 1e9 else None)


# --- servers -------------------------------------------------------------------------------------------------


class ServerPhase(StrEnum):
    """What a server is doing."""

    FETCHING = "Fetching"
    STARTING = "Starting"
    SWAPPING = "Swapping"
    CHECKING = "Checking"
    READY = "Ready"
    FAILED = "Failed"


@dataclass(frozen=True)
class ServerReport:
    """What `STATE_PATH` says of one replica.

    Attributes:
        phase: what is going on; one of `ServerPhase`, or one that a newer server knows.
        digest: the model that is wanted there; None until the first one's is known.
        served: the model that clients may use now; None while there is none.
        message: for people.
        reason: why it failed; None while it has not, or where the class is unknown.
    """

    phase: str
    digest: str | None = None
    served: str | None = None
    message: str = ""
    reason: FailureReason | None = None

    @classmethod
    def read(cls, document: Any) -> ServerReport | None:
        """From JSON values `state`, `digest`, `served`, `message`, `reason`; None where they are not usable."""
        if not isinstance(document, Mapping) or not isinstance(document.get("state"), str):
            return None
        texts = {name: document.get(name) for name in ("digest", "served", "message", "reason")}
        if any(value is not None and not isinstance(value, str) for value in texts.values()):
            return None
        try:
            reason = FailureReason(texts["reason"]) if texts["reason"] else None
        except ValueError:
            reason = None
        return cls(document["state"][:40], texts["digest"], texts["served"], (texts["message"] or "")[:600], reason)


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
