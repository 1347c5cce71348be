"""`sft`: fine-tune a base model on solving and judging, M0 -> M1 (paper §3.2, §4)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from psr_runtime.artefacts.checkpoints import FINGERPRINT, context_length, fetch_model
from psr_runtime.config import SFTStage
from psr_runtime.config.results import SFTResult
from psr_runtime.prompts.tokens import Tokenizer
from psr_runtime.stage import Outcome, StageContext
from psr_runtime.storage import join
from psr_runtime.training.checkpoint import write_checkpoint
from psr_runtime.training.data import Limit, sft_samples, turn_end
from psr_runtime.training.likelihood import response_logprobs
from psr_runtime.training.probes import fingerprint, pick
from psr_runtime.training.resume import ResumeStates
from psr_runtime.training.trainer import History, train
from psr_runtime.training.updates import Updates
from psr_runtime.training.weights import load_model

HISTORY = "updates.jsonl"
"""File of a checkpoint: loss, gradient norm and learning rate of every update."""


def run(config: SFTStage, context: StageContext) -> Outcome:
    """Fine-tune `config.model` on IFT and EFT records.

    The loss is the mean over the response tokens of a global batch: the response and the token that ends the turn
    count, prompts do not.

    Raises:
        InputMissing: model or records are not there.
        DataError: they cannot be read, or a record is too long.
        Interrupted: asked to stop; the same call goes on later.
    """
    training = config.training
    source = fetch_model(context.storage, config.model, context.scratch / "model", "training").folder
    tokenizer = Tokenizer(source, config.model.chat_template)
    model = load_model(source, config.model.weights, config.seed)
    limit = Limit.of(training.max_length, context_length(source), model.get_input_embeddings().num_embeddings)
    ift, eft = sft_samples(context.storage, config, tokenizer, limit)
    samples = ift + eft

    updates = Updates(
        lengths=[len(sample) for sample in samples],
        counts=[len(sample.response) for sample in samples],
        epochs=training.epochs,
        global_batch=training.global_batch,
        micro_batch=training.micro_batch,
        seed=config.seed,
        groups=[len(ift), len(eft)] if training.mixing == "Sequential" else None,
    )

    def loss(model: Any, records: Sequence[int]) -> Tensor:
        return -response_logprobs(model, [samples[record] for record in records], training.precision).sum()

    states = ResumeStates(context.storage, join(config.output, "resume"), context.digest)
    history = train(model, updates, loss, training, context, states, seed=config.seed)

    folder = context.scratch / "checkpoint"
    end = turn_end(tokenizer)
    metadata = write_checkpoint(
        folder,
        model,
        source,
        tokenizer,
        serving_dtype=training.checkpoint_dtype,
        chat_template=config.model.chat_template,
        eos_ids=[end, *(token for token in tokenizer.eos_ids if token != end)],
    )
    parent = source if config.model.weights == "Pretrained" else None
    candidates = [samples[record].ids for record in pick(len(samples), config.seed)]
    print_of_model, changed = fingerprint(model, parent, candidates, training.checkpoint_dtype)
    (folder / FINGERPRINT).write_text(print_of_model.model_dump_json())
    write_history(folder / HISTORY, history)

    result = SFTResult(
        updates=len(updates),
        records=len(samples),
        ift=len(ift),
        eft=len(eft),
        tokens=training.epochs * sum(len(sample) for sample in samples),
        response_tokens=training.epochs * sum(len(sample.response) for sample in samples),
        loss_first=history[0]["loss"],
        loss_last=history[-1]["loss"],
        changed_bf16_weights=changed,
    )
    return Outcome(folder, metadata | {"changed_bf16_weights": changed}, result)


def write_history(path: Path, history: History) -> None:
    """One JSON line per update."""
    path.write_text("".join(json.dumps(entry) + "\n" for entry in history))
