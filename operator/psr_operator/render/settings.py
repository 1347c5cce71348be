"""What the operator decides about every pod, which image a pod gets, and the error for what cannot be rendered."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pydantic import Field

from psr_operator.api.pod import PodOverrides
from psr_operator.planner.types import Placement, Server, Workload
from psr_operator.reasons import Reason
from psr_operator.render.merge import merge
from psr_runtime.config import Schema
from psr_runtime.protocol import PROGRESS_PORT

REVISION = 1
"""Raised when what is rendered from the same value changes; it stands on every Job and Deployment."""


class PodDefaults(Schema):
    """What the operator's owner wants of pods whose manifest says nothing else: pools, tolerations, priorities."""

    gpu: PodOverrides = Field(PodOverrides(), description="Pods with GPUs.")
    cpu: PodOverrides = Field(PodOverrides(), description="Pods without GPUs.")

    def beneath(self, placement: Placement) -> PodOverrides:
        """What a manifest wishes of its pods, on top of the defaults."""
        default = self.gpu if placement.resources.gpus else self.cpu
        if placement.pod is None:
            return default
        return PodOverrides.model_validate(merge(_set_fields(default), _set_fields(placement.pod)))


def _set_fields(pod: PodOverrides) -> dict[str, Any]:
    return pod.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=True)


@dataclass(frozen=True)
class Settings:
    """The operator's own words.

    Attributes:
        runtime_image: of stages whose manifest names none.
        inference_image: of servers whose manifest names none.
        service_accounts: those that manifests may name.
        progress_port: where a stage's pod serves `/progress`.
        bring_runtime: whether servers take `psr_runtime` from the runtime image, for an image that holds only vLLM.
        pod_defaults: beneath what manifests wish of their pods.
        cpu_limit, ephemeral_storage: of containers whose manifest names none; None for none.
        platform_ids: whether user and groups of pods are left to the platform, as OpenShift assigns them.
    """

    runtime_image: str
    inference_image: str
    image_pull_policy: str = "IfNotPresent"
    service_accounts: frozenset[str] = frozenset()
    progress_port: int = PROGRESS_PORT
    bring_runtime: bool = False
    pod_defaults: PodDefaults = field(default_factory=PodDefaults)
    cpu_limit: str | None = None
    ephemeral_storage: str | None = None
    platform_ids: bool = False


class RenderError(Exception):
    """A wanted value that no object can be made of; repeating will not help.

    Args:
        reason: the class of the fault, for conditions.
        message: what is wrong and what to change.
    """

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def resolved_image(wanted: Workload | Server, settings: Settings) -> str:
    """The image of a piece of work: its manifest's, else the operator's for its kind."""
    own = settings.inference_image if isinstance(wanted, Server) else settings.runtime_image
    return wanted.placement.image or own
