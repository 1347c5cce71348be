"""`sft` and `step-dpo`: M0 -> M1 (paper §3.2) and M(i) -> M(i+1) (§3.4). They differ in their objective alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from psr_runtime.artefacts.checkpoints import FINGERPRINT, context_length, fetch_model
from psr_runtime.config import SFTStage, StepDPOStage
from psr_runtime.config.results import TrainingResult
from psr_runtime.prompts.tokens import Tokenizer
from psr_runtime.protocol.errors import ConfigurationError
from psr_runtime.stage import Outcome, StageContext
from psr_runtime.storage import join
from psr_runtime.training.checkpoint import write_checkpoint
from psr_runtime.training.data import Limit
from psr_runtime.training.layouts import LAYOUTS
from psr_runtime.training.loop import History, train
from psr_runtime.training.objectives import Objective, Policy
from psr_runtime.training.objectives.sft import SupervisedFineTuning
from psr_runtime.training.objectives.step_dpo import StepDPO
from psr_runtime.training.probes import fingerprint
from psr_runtime.training.resume import ResumeStates
from psr_runtime.training.strategies import STRATEGIES
from psr_runtime.training.updates import Updates
from psr_runtime.training.weights import load_model

Config = TypeVar("Config", SFTStage, StepDPOStage)

HISTORY = "updates.jsonl"
"""File of a checkpoint: loss, gradient norm and learning rate of every update."""


def sft(config: SFTStage, context: StageContext) -> Outcome:
    """Fine-tune `config.model` on IFT and EFT records. Raises what `_train` does."""
    return _train(config, context, SupervisedFineTuning)


def step_dpo(config: StepDPOStage, context: StageContext) -> Outcome:
    """Train `config.model` on a pair set against a fixed reference.

    Raises:
        ConfigurationError: a model without weights of its own, or a layout that nobody brings; and what `_train` does.
    """
    LAYOUTS.load(config.training.layout)
    for name, source in (("model", config.model), ("reference", config.reference)):
        if source is not None and source.weights == "Random":
            raise ConfigurationError(f"{name}.weights: step-DPO trains a model that has weights; leave out Random")
    return _train(config, context, StepDPO)


def _train(
    config: Config,
    context: StageContext,
    objective_of: Callable[[Config, StageContext, Policy, ResumeStates], Objective],
) -> Outcome:
    """Load the policy, train it in place, write its checkpoint.

    Raises:
        ConfigurationError: a strategy that nobody brings, or a training that diverged.
        InputMissing: model or records are not there.
        DataError: they cannot be read or do not fit the model.
        Interrupted: asked to stop; the same call goes on later.
    """
    training = config.training
    strategy = STRATEGIES.load(training.strategy)()
    source = fetch_model(context.storage, config.model, context.scratch / "model", "training").folder
    tokenizer = Tokenizer(source, config.model.chat_template, config.prompts.thinking)
    model = load_model(source, config.model.weights, config.seed)
    limit = Limit.of(training.max_length, context_length(source), model.get_input_embeddings().num_embeddings)
    states = ResumeStates(context.storage, join(config.output, "resume"), context.digest)
    objective = objective_of(config, context, Policy(source, tokenizer, limit), states)

    updates = Updates(
        lengths=objective.lengths,
        counts=objective.counts,
        epochs=training.epochs,
        global_batch=training.global_batch,
        micro_batch=training.micro_batch,
        seed=config.seed,
        groups=objective.groups,
    )
    objective.begin(model, updates)
    history = train(strategy, model, updates, objective.loss, training, context, states, seed=config.seed)
    model = strategy.whole(model)
    objective.end(model, updates)

    folder = context.scratch / "checkpoint"
    metadata = write_checkpoint(
        folder,
        model,
        source,
        tokenizer,
        serving_dtype=training.checkpoint_dtype,
        chat_template=config.model.chat_template,
        eos_ids=objective.eos_ids,
    )
    if objective.frame is not None:
        metadata["frame"] = dict(objective.frame)
    parent = source if config.model.weights == "Pretrained" else None
    changed = _write_fingerprint(folder, model, parent, objective, training.checkpoint_dtype)
    _write_history(folder / HISTORY, history)
    shared = TrainingResult(
        updates=len(updates),
        tokens=training.epochs * objective.tokens,
        loss_first=history[0]["loss"],
        loss_last=history[-1]["loss"],
        changed_bf16_weights=changed,
    )
    return Outcome(folder, metadata | {"changed_bf16_weights": changed}, objective.result(shared))


def _write_fingerprint(
    folder: Path, model: Any, parent: Path | None, objective: Objective, serving_dtype: str
) -> int | None:
    """Write `fingerprint.json`; how many weights differ from the parent's in bfloat16. Rounds the model's weights."""
    print_of_model, changed = fingerprint(model, parent, objective.probes(), serving_dtype)
    (folder / FINGERPRINT).write_text(print_of_model.model_dump_json())
    return changed


def _write_history(path: Path, history: History) -> None:
    """One JSON line per update."""
    path.write_text("".join(json.dumps(entry) + "\n" for entry in history))
