"""PolicyServer: vLLM for one model at a time, and how other kinds name or bring one."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints, model_validator

from psr_operator.api.common import Image, Label, Resource, Resources, Seconds, Status, StorageSpec
from psr_operator.api.pod import PodOverrides
from psr_runtime.config import ChildName, EngineConfig, ModelSource, Schema, Uri, operation


class ServerTemplate(Schema):
    """How a server is made: engine, replicas, hardware."""

    engine: EngineConfig = operation(EngineConfig(), description="vLLM.")
    replicas: int = operation(1, ge=1, le=64, description="Copies of the server; a problem always asks the same one.")
    resources: Resources = operation(Resources(), description="Hardware of each replica.")
    pod: PodOverrides | None = operation(None, description="Merged into the server's pods.")
    image: Image | None = operation(None, description="Image of the server. Unset: the operator's.")
    idle: Literal["Release", "Keep"] | None = operation(
        None,
        description="Release: no server while training. Keep: stays and exchanges weights in place; a server with "
        "GPUs is released during training with GPUs all the same. Unset: Release on Kubernetes, Keep for psr run.",
    )
    port: int | None = operation(
        None,
        ge=1,
        le=65534,
        description="Port of the OpenAI API; the next one is for control. Unset: 8000 in a pod, any free one for psr.",
    )


class ServerChoice(Schema):
    """A server by name, or one of one's own."""

    ref: ChildName | None = operation(None, description="Name of a PolicyServer in the same namespace.")
    inline: ServerTemplate | None = operation(None, description="A server of this object's own.")

    @model_validator(mode="after")
    def _one_of(self) -> ServerChoice:
        if (self.ref is None) == (self.inline is None):
            raise ValueError("give either ref or inline")
        return self


class PolicyServerSpec(ServerTemplate):
    """Serve a model until told to serve another."""

    model: ModelSource = operation(description="The model to serve.")
    model_digest: Label | None = operation(None, description="Digest that the model must have. Unset: any.")
    seed: int | None = operation(
        None,
        ge=0,
        lt=2**31,
        description="Seed of the engine itself, from its next start on; requests may have their own. Unset: vLLM's, 0. "
        "A run gives its servers its own seed. Ours.",
    )
    active: bool = operation(True, description="False: scale to nothing and free the GPUs.")
    storage: StorageSpec | None = operation(None, description="How to reach the model.")
    pins: Uri | None = operation(
        None,
        description="Storage prefix below which the commits of hf:// URIs are recorded. Set by the parent; unset: the "
        "server's own prefix.",
    )
    scheduling_deadline_seconds: Seconds | None = operation(
        None,
        description="Seconds that the server's pods may wait for a node or their start before it is Stalled; it goes "
        "on when they start after all. A parent hands down its own.",
    )


class PolicyServerStatus(Status):
    """What a server does."""

    endpoints: list[Annotated[str, StringConstraints(max_length=256)]] = Field(
        default=[], max_length=64, description="Base URL of each replica."
    )
    model: Uri | None = Field(None, description="URI of the model that is served, once the fingerprint agrees.")
    digest: Label | None = Field(None, description="Digest of that model.")
    holds_gpus: bool = Field(False, description="Whether a pod of the server exists, terminating ones included.")
    image: Image | None = Field(
        None, description="What the present pods were made with; a newer operator changes it only at the next start."
    )
    pending_since: float | None = Field(
        None, description="When a pod was first seen waiting for a node or its start, in seconds since the epoch."
    )


class PolicyServer(Resource):
    """An OpenAI-compatible endpoint for a policy."""

    plural: ClassVar = "policyservers"
    short_name: ClassVar = "psv"

    kind: Literal["PolicyServer"] = "PolicyServer"
    spec: PolicyServerSpec
    status: PolicyServerStatus = PolicyServerStatus()
