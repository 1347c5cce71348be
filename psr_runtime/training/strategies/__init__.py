"""Training strategies: how processes and devices share the work of one training.

A manifest names one as `training.strategy`; a package brings others by an entry point in the group `psr.training`. What
a name stands for is called without arguments and gives a `Strategy`. What is computed is the objective's; a strategy
that changes the numbers beyond rounding is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from transformers import TrainingArguments

from psr_runtime.config import TrainingConfig
from psr_runtime.config.plugins import Registry
from psr_runtime.training.update_trainer import UpdateTrainer


class Strategy(Protocol):
    """Three places of a training where processes and devices matter."""

    def arguments(self, settings: Mapping[str, Any]) -> TrainingArguments:
        """transformers' arguments: the loop's settings, and what the strategy adds or corrects (`fsdp`, `deepspeed`).

        Raises:
            ConfigurationError: the processes were started in a way that does not fit.
        """

    def trainer(self, **parts: Any) -> UpdateTrainer:
        """The trainer, from the keyword arguments of `UpdateTrainer`; one that shares micro-batches is a subclass."""

    def whole(self, model: Any) -> Any:
        """The trained model with all its weights in this process, to be scored, compared and written."""


STRATEGIES: Registry[Callable[[], Strategy]] = Registry.of(TrainingConfig, "strategy", "training.strategy")
"""Every strategy by its name in a manifest."""
