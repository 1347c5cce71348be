"""A transformers Trainer whose batch is one global batch, and the learning rate of each update.

An update is one global batch whose summed loss is divided once by the batch's own count, however it is cut into
micro-batches; the model stays in evaluation mode, so dropout is off for policy and reference alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer

from psr_runtime.config import OptimizerConfig
from psr_runtime.training.updates import Update

Loss = Callable[[Any, Sequence[int]], Tensor]
"""(model, record indices of a micro-batch) -> the summed loss of these records, a scalar."""


def learning_rate_scale(update: int, updates: int, config: OptimizerConfig) -> float:
    """Share of the peak learning rate at update `update`, counted from 0.

    Warm-up rises from 1/(w+1) over w = round(warmup_ratio · updates) updates, the rest falls from 1 towards 0, which
    is reached after the last update: no update has a learning rate of 0, not even the only one.
    """
    warmup = round(config.warmup_ratio * updates)
    if update < warmup:
        return (update + 1) / (warmup + 1)
    if config.schedule == "Constant":
        return 1.0
    done = (update - warmup) / max(1, updates - warmup)
    return 1 - done if config.schedule == "Linear" else 0.5 * (1 + math.cos(math.pi * done))


class UpdateTrainer(Trainer):
    """A Trainer whose batch is an `Update`: one global batch, already cut into micro-batches.

    Args:
        loss: summed loss of a micro-batch.
        optimizer_config: shape of the learning rate.
    """

    lr_scheduler: Any

    def __init__(self, *, loss: Loss, optimizer_config: OptimizerConfig, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._loss = loss
        self._optimizer_config = optimizer_config

    def training_step(self, model: Any, inputs: Update, num_items_in_batch: Any = None) -> Tensor:
        """Forward and backward of a whole global batch; Σ loss ÷ count, exactly, for any micro-batch size."""
        model.eval()
        total = torch.zeros((), device=self.args.device)
        for records in inputs["micro"]:
            loss = self._loss(model, records) / inputs["count"]
            self.accelerator.backward(loss)
            total += loss.detach()
        return total

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        if self.lr_scheduler is None:
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
                optimizer or self.optimizer,
                lambda update: learning_rate_scale(update, num_training_steps, self._optimizer_config),
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def floating_point_ops(self, inputs: Any) -> int:
        """Not estimated: Trainer's formula wants padded tensors, which exist only inside the loss."""
        return 0
