"""The kinds of `psr.dev/v1alpha1`: one module a kind, pydantic all through, and the registry of all of them.

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

KINDS: dict[str, type[Resource]] = {}
"""Every kind by name. What is known of one besides its fields (plural, short name, stages) is on its class."""


def register(kind: type[Resource]) -> type[Resource]:
    """Add a kind: it is read, described, given a definition, and served from then on. Usable as a decorator."""
    KINDS[kind.__name__] = kind
    return kind


for _kind in (
    SelfRewardRun,
    SelfRewardIteration,
    PreferenceGeneration,
    StepDPOJob,
    SFTJob,
    ModelEvaluation,
    PolicyServer,
):
    register(_kind)

__all__ = [
    "GROUP",
    "KINDS",
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
    "register",
]
