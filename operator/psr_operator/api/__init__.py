"""The nouns: `psr.dev/v1alpha1`, one module a kind, pydantic all through.

The words under `spec` are those of `psr_runtime.config`; a status is only what the planner wrote there.
"""

from __future__ import annotations

from psr_operator.api.common import GROUP, VERSION, Condition, Meta, OwnerReference, Resource
from psr_operator.api.evaluation import ModelEvaluation
from psr_operator.api.generation import PreferenceGeneration
from psr_operator.api.iteration import SelfRewardIteration
from psr_operator.api.run import SelfRewardRun
from psr_operator.api.server import PolicyServer
from psr_operator.api.training import SFTJob, StepDPOJob

KINDS: dict[str, type[Resource]] = {
    kind.__name__: kind
    for kind in (
        SelfRewardRun,
        SelfRewardIteration,
        PreferenceGeneration,
        StepDPOJob,
        SFTJob,
        ModelEvaluation,
        PolicyServer,
    )
}
"""Every kind by name."""
PLURALS = {kind: f"{kind.lower()}s" for kind in KINDS}
"""What each kind is called in the paths of the API."""

__all__ = [
    "GROUP",
    "KINDS",
    "PLURALS",
    "VERSION",
    "Condition",
    "Meta",
    "ModelEvaluation",
    "OwnerReference",
    "PolicyServer",
    "PreferenceGeneration",
    "Resource",
    "SFTJob",
    "SelfRewardIteration",
    "SelfRewardRun",
    "StepDPOJob",
]
