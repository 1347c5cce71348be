"""The table of planners: one a kind. A new kind is added to `psr_operator.api.KINDS` and here."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from psr_operator.planner.kinds.evaluation import plan_evaluation
from psr_operator.planner.kinds.generation import plan_generation
from psr_operator.planner.kinds.iteration import plan_iteration
from psr_operator.planner.kinds.run import plan_run
from psr_operator.planner.kinds.server import plan_server
from psr_operator.planner.kinds.sft import plan_sft
from psr_operator.planner.kinds.step_dpo import plan_step_dpo
from psr_operator.planner.types import Observed, Plan

Planner = Callable[[Any, Observed, datetime], Plan]
"""Plans one object of its kind, from what is observed and the time (aware)."""

PLANNERS: dict[str, Planner] = {
    "SelfRewardRun": plan_run,
    "SelfRewardIteration": plan_iteration,
    "PreferenceGeneration": plan_generation,
    "SFTJob": plan_sft,
    "StepDPOJob": plan_step_dpo,
    "ModelEvaluation": plan_evaluation,
    "PolicyServer": plan_server,
}
"""The planner of each kind, by its name."""
