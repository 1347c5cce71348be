"""What all kinds share: metadata, conditions, storage, hardware, and the fields of everything that makes attempts."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, StringConstraints, model_validator

from psr_operator.api.keyed import Keyed
from psr_operator.api.pod import DNSName, PodOverrides, QualifiedName, Quantity
from psr_runtime.config import MANY, URI, Name, Owner, Schema, StorageAccess, Uri, method, operation

GROUP = "psr.dev"
VERSION = "v1alpha1"
ApiVersion = Literal["psr.dev/v1alpha1"]

Short = Annotated[str, StringConstraints(max_length=1024)]
Label = Annotated[str, StringConstraints(max_length=253)]


Image = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9][-a-zA-Z0-9._/:@]*$", max_length=512)]
"""A container image, best by digest."""


Prefix = Annotated[str, StringConstraints(pattern=URI, max_length=512)]
"""A URI that names are appended to: shorter, so that what lies below it is a URI too."""
Place = Annotated[str, StringConstraints(pattern=URI, max_length=768)]
"""A URI below a prefix, with parts and attempts below it."""


class OwnerReference(Schema):
    """The parent of a child object."""

    kind: Label
    name: Label
    uid: Label


class Meta(Schema):
    """Object metadata, as far as PSR reads it."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$", max_length=52)]
    namespace: Label = "default"
    uid: Label = ""
    generation: int = 1
    labels: dict[Label, Label] = Field(default={}, max_length=64)
    annotations: dict[Label, Short] = Field(default={}, max_length=64)
    owner_references: list[OwnerReference] = Field(default=[], max_length=8)


class Condition(Schema):
    """A status condition. Types: Ready, Reconciling, Stalled, Suspended (kstatus)."""

    type: Literal["Ready", "Reconciling", "Stalled", "Suspended"] = Field(description="Which condition.")
    status: Literal["True", "False", "Unknown"] = Field(description="Whether it holds.")
    reason: Label = Field(description="Why, in one word.")
    message: Short = Field("", description="Why, for people.")
    observed_generation: int = Field(0, description="Generation of the object that this was found for.")
    last_transition_time: Label = Field("", description="When the status last changed.")


class Status(Schema):
    """What every status holds."""

    observed_generation: int = Field(-1, description="Generation of the object that this status belongs to.")
    conditions: Annotated[list[Condition], Keyed("type")] = Field(
        default=[], max_length=8, description="Ready, Reconciling, Stalled and Suspended, as kstatus reads them."
    )
    reason: Label = Field("", description="The Ready condition's reason, for field selectors.")
    blocked: Short | None = Field(
        None,
        description="What keeps the work from going on, here or in a child, in Kubernetes' words: quota, image, "
        "volume, node. Unset while nothing does.",
    )
    naming: Literal["Kind"] | None = Field(
        None,
        description="Kind: its attempts, children and folders are named after it and its kind, as an object of another "
        "kind had its name when it came. Unset: after it alone.",
    )
    step: Label = Field("", description="What is being done.")
    progress: Label = Field("", description="How far it is.")

    def condition(self, kind: str) -> Condition | None:
        """The condition of a type, or None."""
        return next((item for item in self.conditions if item.type == kind), None)

    def holds(self, kind: str) -> bool:
        """Whether the condition of a type is True."""
        condition = self.condition(kind)
        return condition is not None and condition.status == "True"


class Resource(Schema):
    """Base of all kinds. What is known of a kind besides its fields is on its class.

    Attributes:
        plural: what it is called in the paths of the API.
        short_name: for kubectl.
        stages: that its Workloads run, in order; empty for a kind that only makes children.
    """

    plural: ClassVar[str]
    short_name: ClassVar[str]
    stages: ClassVar[tuple[str, ...]] = ()

    api_version: ApiVersion = "psr.dev/v1alpha1"
    kind: str
    metadata: Meta
    spec: Any
    status: Any

    @property
    def ref(self) -> str:
        """`Kind/name`, for messages."""
        return f"{self.kind}/{self.metadata.name}"


class Volume(Schema):
    """A ReadWriteMany claim that `file://` URIs lie under."""

    claim_name: Name = method(description="PersistentVolumeClaim in the object's namespace.")
    mount_path: Annotated[str, StringConstraints(pattern=r"^(/[^/]+)+$", max_length=256)] = method(
        description="Where it is mounted. `psr run --mount` maps it to a folder of this machine."
    )


class StorageSpec(StorageAccess):
    """Where artefacts go: `<uri>/<namespace>/<name>/…`."""

    uri: Prefix = method(
        description="Prefix of all artefacts: s3://bucket/prefix, file:///mount/path or a URI of another scheme that a "
        "package in the image brings."
    )
    volume: Volume | None = method(None, description="The volume of file:// URIs.")
    credentials_secret: DNSName | None = operation(
        None,
        description="Secret whose keys are the variables of the S3 client (AWS_ACCESS_KEY_ID, …). Unset: the pod's "
        "own identity. `psr run` takes them from its environment.",
    )
    service_account_name: DNSName | None = operation(
        None, description="Service account whose cloud identity reaches the storage."
    )
    ca_secret: DNSName | None = operation(
        None,
        description="Secret whose key ca.crt holds the certificates (PEM) that S3 clients trust, instead of the "
        "image's. `psr run` takes the file that AWS_CA_BUNDLE names.",
    )

    @model_validator(mode="after")
    def _under_the_volume(self) -> StorageSpec:
        if self.volume is not None and not _below(self.uri, self.volume.mount_path):
            raise ValueError(f"uri {self.uri} does not lie under volume.mountPath {self.volume.mount_path}")
        return self

    def access(self) -> StorageAccess:
        """How stages reach the storage."""
        return StorageAccess(endpoint=self.endpoint, region=self.region, path_style=self.path_style)


def _below(uri: str, mount: str) -> bool:
    return not uri.startswith("file://") or f"{uri}/".startswith(f"file://{mount}/")


class Resources(Schema):
    """Hardware of one pod or process."""

    gpus: int = operation(0, ge=0, le=64, description="GPUs of each pod.")
    gpu_resource: QualifiedName = operation("nvidia.com/gpu", description="Name under which nodes offer GPUs.")
    cpu: Quantity | None = operation(None, description="CPU request.")
    cpu_limit: Quantity | None = operation(
        None,
        description="CPU limit, for namespaces whose quota wants one. Unset: the operator's default, else none.",
    )
    memory: Quantity | None = operation(None, description="Memory request and limit.")
    ephemeral_storage: Quantity | None = operation(
        None,
        description="Ephemeral storage, request and limit; models that are fetched lie there. Unset: the operator's "
        "default, else none.",
    )
    shared_memory: Quantity | None = operation(
        None, description="Size of /dev/shm, counted as memory. Unset: as much as the memory allows."
    )


class TrainingResources(Resources):
    """Hardware of one training."""

    nodes: int = operation(1, ge=1, le=64, description="Pods of one training, each with `gpus` devices.")


class Retries(Schema):
    """How often and how quickly an attempt is repeated."""

    backoff_limit: int = operation(3, ge=0, le=100, description="Failures before the object is Stalled.")
    max_disruptions: int = operation(10, ge=0, le=1000, description="Evictions and drains before it is Stalled.")
    backoff_seconds: int = operation(
        10, ge=0, le=3600, description="Pause before the second attempt; doubles with each failure up to 300 s."
    )


Seconds = Annotated[int, Field(ge=1, le=MANY)]


class Upkeep(Schema):
    """How work is carried out: what parents hand to every working child as it is."""

    suspend: bool = operation(False, description="Stop what runs, free the GPUs and wait.")
    retries: Retries = operation(Retries(), description="Repetition of failed attempts.")
    active_deadline_seconds: Seconds | None = operation(
        None, description="Seconds of running after which a piece of work is Stalled; waiting does not count."
    )
    scheduling_deadline_seconds: Seconds | None = operation(
        None,
        description="Seconds that an attempt's pods may wait for a node before the work is Stalled; waiting in a Kueue "
        "queue does not count.",
    )
    ttl_seconds_after_finished: Annotated[int, Field(ge=60, le=MANY)] | None = operation(
        None,
        description="Seconds after which Kubernetes removes a finished Job; a minute at least, so that its result is "
        "read before. Unset: it goes with its owner.",
    )
    image: Image | None = operation(None, description="Image of the stages. Unset: the operator's.")


class Work(Upkeep):
    """Operation fields of every kind that makes attempts."""

    resources: Resources = operation(Resources(), description="Hardware of the working pods.")
    pod: PodOverrides | None = operation(None, description="Merged into the working pods.")
    rerun: Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=40)] | None = (
        operation(None, description="Change it to make the finished work again, into a folder of that name.")
    )
    output: Place | None = method(
        None,
        description="Where the artefact goes. Unset: below <storage.uri>/<namespace>/<name>.",
    )
    owner: Owner | None = operation(None, description="Claim on the storage prefix. Set by the parent.")
    storage: StorageSpec = method(description="Where artefacts go.")


class Attempts(Schema):
    """The attempts of one step of an object."""

    attempt: int = Field(0, description="Number of the last attempt, from 1; 0 before the first.")
    observed: bool = Field(False, description="Whether its Workload has been seen.")
    failures: int = Field(0, description="Earlier attempts that failed.")
    disruptions: int = Field(0, description="Earlier attempts that were evicted or drained.")
    open: bool = Field(False, description="Whether the last attempt is still to be carried out.")
    retry_at: float = Field(0.0, description="Not before this time, in seconds since the epoch.")


Result = Annotated[dict[str, Any], Field(max_length=64)]
"""What a stage said at its end."""


class Failure(Schema):
    """Why an object is Stalled."""

    reason: Label = Field(description="Why, in one word.")
    message: Short = Field(description="Why, for people.")
    generation: int = Field(description="Generation of the object that this was found for.")


class WorkStatus(Status):
    """Status of a kind that makes attempts."""

    attempts: dict[Label, Attempts] = Field(default={}, max_length=132, description="Attempts by step.")
    done: dict[Label, Result] = Field(default={}, max_length=132, description="Result of each finished step.")
    failure: Failure | None = Field(None, description="Why it is Stalled; unset while it is not.")
    rerun: Label | None = Field(None, description="The rerun token that `done` belongs to.")
    running_since: float | None = Field(
        None, description="When the current attempt was first seen running, in seconds since the epoch."
    )
    pending_since: float | None = Field(
        None, description="When the current attempt was first seen waiting for a node, in seconds since the epoch."
    )
    active_seconds: float = Field(0.0, description="Seconds that earlier attempts have run.")
    output: Uri | None = Field(None, description="URI of the finished artefact.")
    digest: Label | None = Field(None, description="Digest of the finished artefact.")
