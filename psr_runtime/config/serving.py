"""Serving: how vLLM serves a model, and how its clients find it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from psr_runtime.config.fields import MANY, Schema, Uri, operation
from psr_runtime.config.model import ModelSource
from psr_runtime.config.storage import StorageAccess
from psr_runtime.protocol import API_PORT

MAX_EXTRA_ARGS = 32


class EngineConfig(Schema):
    """How vLLM serves a model. Nothing here changes what is asked of it."""

    dtype: Literal["bfloat16", "float32", "float16"] = operation(
        "bfloat16", description="Dtype of the weights in the engine; explicit, as fingerprints depend on it."
    )
    max_model_len: int | None = operation(
        None, ge=16, le=MANY, description="Context in tokens. Unset: the model's own."
    )
    tensor_parallel: int = operation(1, ge=1, le=64, description="Devices that share one replica.")
    block_size: int | None = operation(
        None, ge=1, le=65536, description="Tokens per cache block. Unset: 32 on CPU (its default hides short prefixes)."
    )
    gpu_memory_utilization: float = operation(0.9, gt=0, le=1, description="Share of device memory for vLLM.")
    cpu_cache_gib: int = operation(1, ge=1, le=65536, description="KV cache in GiB on CPU.")
    enforce_eager: bool = operation(False, description="Do not compile: quicker start, slower tokens.")
    weights: Literal["Download", "Stream"] = operation(
        "Download",
        description="Download: bring the weights to the pod's disk and verify every byte, then load them. Stream: vLLM "
        "reads them from the storage itself (runai_streamer); the fingerprint tells whether the right ones came. A "
        "model without fingerprint is not streamed, and a new model is always a restart.",
    )
    swap: Literal["Auto", "Never"] = operation(
        "Auto", description="Auto: exchange weights in place where a check can prove it; Never: always restart."
    )
    extra_args: Annotated[list[Annotated[str, StringConstraints(max_length=256)]], Field(max_length=MAX_EXTRA_ARGS)] = (
        operation([], description="Further vLLM arguments, as on its command line.")
    )


class Endpoint(Schema):
    """A PolicyServer as its clients see it."""

    urls: Annotated[list[Annotated[str, StringConstraints(max_length=256)]], Field(min_length=1, max_length=64)] = (
        operation(description="Base URL of each replica; a problem always goes to the same one.")
    )
    model_digest: Annotated[str, StringConstraints(max_length=80)] | None = operation(
        None, description="Digest of the model that must answer. Unset: taken from the model's manifest."
    )
    ready_seconds: int = operation(1800, ge=1, le=MANY, description="How long to wait for a server that is not ready.")


class ServeStage(Schema):
    """`serve`: a server pod. It makes no artefact; it answers for one model at a time."""

    model: ModelSource = operation(description="The model to start with.")
    engine: EngineConfig = operation(EngineConfig(), description="vLLM.")
    storage: StorageAccess = operation(StorageAccess(), description="How to reach the storage.")
    host: Annotated[str, StringConstraints(max_length=64)] = operation("127.0.0.1", description="Address to bind.")
    port: int = operation(API_PORT, ge=1, le=65534, description="Port of the OpenAI API; the next one is for control.")
    scratch: Annotated[str, StringConstraints(max_length=1024)] = operation(description="Folder for checkpoints.")
    pins: Uri | None = operation(
        None, description="Storage prefix below which the commits of hf:// URIs are recorded. Unset: nowhere."
    )


class ModelOrder(Schema):
    """Body of a PUT to `protocol.MODEL_PATH` of a server: serve this model from now on."""

    model: ModelSource
    digest: str = Field(min_length=1, max_length=80)
