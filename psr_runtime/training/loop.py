"""The training loop that SFT and step-DPO share, on transformers' Trainer.

Trainer brings the optimizer, clipping, the loop and its saved state. Ours is what decides the numbers
(`update_trainer.py`), who works on it (`strategies/`), and that resumable states go to the storage.
"""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, TrainerCallback

from psr_runtime.config import SFTConfig, StepDPOConfig
from psr_runtime.protocol.errors import ConfigurationError
from psr_runtime.stage import StageContext
from psr_runtime.training.resume import ResumeStates
from psr_runtime.training.strategies import Strategy
from psr_runtime.training.update_trainer import Loss
from psr_runtime.training.updates import Update, Updates

History = list[dict[str, float]]
"""One entry per update: `update` from 1, `loss`, `grad_norm` before clipping, `learning_rate`."""


def train(
    strategy: Strategy,
    model: Any,
    updates: Updates,
    loss: Loss,
    config: SFTConfig | StepDPOConfig,
    context: StageContext,
    states: ResumeStates,
    *,
    seed: int,
) -> History:
    """Train `model` in place from the newest resumable state to the last update.

    Two runs on one machine give the same bits, whether or not one of them was stopped in between.

    Raises:
        Interrupted: the stage was asked to stop; the state of the last update is stored.
        ConfigurationError: the loss is no longer a finite number.
    """
    folder = context.scratch / "trainer"
    trainer = strategy.trainer(
        model=model,
        args=strategy.arguments(_settings(model, len(updates), config, folder, seed)),
        train_dataset=updates,
        data_collator=_the_only_one,
        loss=loss,
        optimizer_config=config.optimizer,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_StageCallback(context, states, folder, config.save_steps))

    state = states.newest(context.scratch / "resume")
    context.progress.start(len(updates), "updates", done=state[1] if state else 0)
    trainer.train(resume_from_checkpoint=str(state[0]) if state else None)
    context.check_stop()
    kept = ("loss", "grad_norm", "learning_rate")
    return [
        {"update": entry["step"], **{name: entry[name] for name in kept}}
        for entry in trainer.state.log_history
        if "loss" in entry
    ]


def _settings(model: Any, updates: int, config: SFTConfig | StepDPOConfig, folder: Path, seed: int) -> dict[str, Any]:
    """What transformers' TrainingArguments get, whatever the strategy."""
    return {
        "output_dir": str(folder),
        "max_steps": updates,
        "per_device_train_batch_size": 1,  # of the data set of updates
        "train_sampling_strategy": "sequential",
        "learning_rate": config.learning_rate,
        "adam_beta1": config.optimizer.beta1,
        "adam_beta2": config.optimizer.beta2,
        "weight_decay": config.optimizer.weight_decay,
        "max_grad_norm": config.optimizer.max_grad_norm,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "remove_unused_columns": False,
        "use_cpu": not torch.cuda.is_available(),
        "use_cache": getattr(model.config, "use_cache", False),  # Trainer writes it into the configuration
        "seed": seed,
    }


class _StageCallback(TrainerCallback):
    """What the stage contract asks of a training: progress, resumable states, an orderly stop."""

    def __init__(self, context: StageContext, states: ResumeStates, folder: Path, save_steps: int) -> None:
        self._context, self._states, self._folder, self._save_steps = context, states, folder, save_steps

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        if "loss" not in logs:
            return
        if not math.isfinite(logs["loss"]) or not math.isfinite(logs["grad_norm"]):
            raise ConfigurationError(
                f"update {state.global_step}: loss {logs['loss']}, gradient norm {logs['grad_norm']}; "
                "the training diverged, lower training.learningRate"
            )
        self._context.progress.advance(1, loss=logs["loss"], learning_rate=logs["learning_rate"])
        # Trainer logs after every update and looks at its control afterwards.
        stop = self._context.stop.is_set()
        control.should_save |= stop or state.global_step % self._save_steps == 0
        control.should_training_stop |= stop

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        folder = self._folder / f"checkpoint-{state.global_step}"
        (folder / "training_args.bin").unlink()  # names paths of this machine and is never read
        self._states.keep(folder, state.global_step)
        shutil.rmtree(folder)


def _the_only_one(batch: list[Update]) -> Update:
    (update,) = batch
    return update
