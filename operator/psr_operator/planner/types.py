"""The planner's values: what is observed, what is wanted. No Kubernetes object and no process in sight.

An executor (`psr_operator.local` on one machine) turns `Workload` and `Server` into processes, or on Kubernetes into
Jobs and Deployments, and reports `WorkloadState` and `ServerState`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from psr_operator.api.common import Resource, Resources, StorageSpec
from psr_operator.api.pod import PodOverrides
from psr_operator.conditions import Transition
from psr_runtime.config import MAX_EXTRA_ARGS, EngineConfig, ModelSource, StageConfig, StorageAccess
from psr_runtime.protocol import ExitCode, FailureReason


class Phase(Enum):
    """Life of a Workload as an executor sees it."""

    PENDING = "Pending"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


class ExitClass(Enum):
    """How a failed Workload ended. The first three are never retried."""

    CONFIGURATION = "ConfigurationError"
    DATA = "DataError"
    MISSING = "InputMissing"
    TEMPORARY = "Temporary"
    DISRUPTION = "Disrupted"
    MEMORY = "OutOfMemory"
    FAILURE = "Failed"

    @classmethod
    def of(cls, code: int) -> ExitClass:
        """The class of an exit code of the stage contract (negative: ended by that signal)."""
        return _BY_CODE.get(code, cls.FAILURE)

    @property
    def final(self) -> bool:
        """Whether a repetition would end the same way."""
        return self in (ExitClass.CONFIGURATION, ExitClass.DATA, ExitClass.MISSING)


_BY_CODE: dict[int, ExitClass] = {
    ExitCode.CONFIGURATION_ERROR: ExitClass.CONFIGURATION,
    ExitCode.DATA_ERROR: ExitClass.DATA,
    ExitCode.INPUT_MISSING: ExitClass.MISSING,
    ExitCode.TEMPORARY: ExitClass.TEMPORARY,
}


@dataclass(frozen=True)
class Placement:
    """Where and how the pods of a piece of work run; processes of this machine need none of it but the GPUs.

    Attributes:
        storage: how its pods reach the storage, credentials and volume included.
        image: None for the executor's own.
        ttl_seconds: after which a finished Job may vanish.
        labels, annotations: of the object, for queues and topology.
    """

    resources: Resources = field(default_factory=Resources)
    pod: PodOverrides | None = None
    image: str | None = None
    storage: StorageSpec | None = None
    ttl_seconds: int | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Workload:
    """Work wanted: one stage, as one process or several.

    Attributes:
        name: of this attempt; unique in the namespace.
        stage: key of `psr_runtime.stage.STAGES`.
        configurations: one a shard (one for work that is not sharded).
        attempt: number of the attempt, from 1.
        placement: of each process.
        server: name of the PolicyServer that it asks, None for work that asks none.
    """

    name: str
    stage: str
    configurations: tuple[StageConfig, ...]
    attempt: int
    placement: Placement = field(default_factory=Placement)
    server: str | None = None

    @property
    def gpus(self) -> int:
        """GPUs of each process."""
        return self.placement.resources.gpus

    @property
    def outputs(self) -> tuple[str, ...]:
        """The URIs that it writes."""
        return tuple(config.output for config in self.configurations)


@dataclass(frozen=True)
class WorkloadState:
    """A Workload as observed.

    Attributes:
        exit_class: of the process that failed first; None unless FAILED.
        result: of the stage (of shard 0 where there are several); None where it is not known.
        message: why it is pending or failed.
        reason: why it failed, as its stage says; None where that is unknown.
        progress: fraction done, 0 to 1, None while unknown.
        eta: seconds left, None while unknown.
        queued: whether it is pending because a queue has not admitted it yet.
        blocked: whether the message says what keeps it, or a part of it, from its work.
        ends_by: when the last of its pods that were deleted should be gone, in seconds since the epoch; None for none.
        ending: that pod and its node.
        gone: whether no pod or process of it is left, terminating ones included.
    """

    name: str
    attempt: int
    phase: Phase
    exit_class: ExitClass | None = None
    result: Mapping[str, Any] | None = None
    message: str = ""
    reason: FailureReason | None = None
    progress: float | None = None
    eta: float | None = None
    queued: bool = False
    blocked: bool = False
    ends_by: float | None = None
    ending: str = ""
    gone: bool = False


SEED = "--seed"


@dataclass(frozen=True)
class Server:
    """A server wanted: this model, this many replicas; absent where it is not wanted at all.

    Attributes:
        digest: that the model must have, None for any.
        port: None for one that the executor chooses.
        seed: of the engine, None for vLLM's own. A server that runs is not started anew for it.
        pins: storage prefix below which the commits of hf:// URIs are recorded; None where the model has none.
    """

    name: str
    model: ModelSource
    digest: str | None
    engine: EngineConfig
    storage: StorageAccess
    replicas: int
    port: int | None
    placement: Placement = field(default_factory=Placement)
    seed: int | None = None
    pins: str | None = None

    @property
    def seeded_engine(self) -> EngineConfig:
        """The engine with the seed among its arguments, where any image knows it; arguments that name one stay."""
        own = self.engine.extra_args
        if self.seed is None or len(own) >= MAX_EXTRA_ARGS or any(item.split("=")[0] == SEED for item in own):
            return self.engine
        return self.engine.model_copy(update={"extra_args": [*own, f"{SEED}={self.seed}"]})

    @property
    def gpus(self) -> int:
        """GPUs of each replica."""
        return self.placement.resources.gpus


@dataclass(frozen=True)
class ServerState:
    """A server as observed.

    Attributes:
        endpoints: base URL of each replica.
        ready: URI of the model that every replica serves with an agreeing fingerprint, None while none.
        digest: its digest.
        message: what it is doing, or why it failed.
        failed: whether it cannot serve the model and repeating will not help.
        reason: why it failed; None where the class is unknown.
        image: that its pods were made with, where the executor uses images.
        pending: whether a pod of it has not begun to run.
        blocked: whether the message says what keeps it from serving.
        ends_by, ending: as of a Workload.
        gone: whether no pod or process of it is left.
    """

    name: str
    endpoints: tuple[str, ...] = ()
    ready: str | None = None
    digest: str | None = None
    message: str = ""
    failed: bool = False
    reason: FailureReason | None = None
    image: str | None = None
    pending: bool = False
    blocked: bool = False
    ends_by: float | None = None
    ending: str = ""
    gone: bool = False


@dataclass(frozen=True)
class Observed:
    """What an object's planner may know.

    Attributes:
        workloads: that the object owns, all attempts that exist.
        servers: likewise.
        children: objects that it owns.
        peers: PolicyServers that its spec names, by name.
    """

    workloads: tuple[WorkloadState, ...] = ()
    servers: tuple[ServerState, ...] = ()
    children: tuple[Resource, ...] = ()
    peers: Mapping[str, Resource] = field(default_factory=dict)

    def workload(self, name: str) -> WorkloadState | None:
        return next((item for item in self.workloads if item.name == name), None)

    def child(self, kind: str, name: str) -> Resource | None:
        return next((item for item in self.children if (item.kind, item.metadata.name) == (kind, name)), None)


@dataclass(frozen=True)
class Plan:
    """What is wanted for one object.

    Attributes:
        status: to be stored if it differs; before anything else is done.
        children: objects to exist with these specs.
        workloads: to exist; one that exists already is left alone.
        stop: names of Workloads to be stopped.
        servers: to exist like this. An owned server that is not among them is to go.
        transition: to be reported once the status is stored.
        again_after: seconds after which to plan again even if nothing is observed; None: no need.
    """

    status: Any
    children: tuple[Resource, ...] = ()
    workloads: tuple[Workload, ...] = ()
    stop: tuple[str, ...] = ()
    servers: tuple[Server, ...] = ()
    transition: Transition | None = None
    again_after: float | None = None
