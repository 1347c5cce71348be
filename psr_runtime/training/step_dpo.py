"""`step-dpo`: train a policy on its own step preferences, M(i) -> M(i+1) (paper §3.4, eqs. 6-8)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from psr_runtime.artefacts.checkpoints import FINGERPRINT, context_length, fetch_model
from psr_runtime.config import StepDPOConfig, StepDPOStage
from psr_runtime.config.results import StepDPOResult
from psr_runtime.prompts.tokens import Tokenizer, tokenizer_digest
from psr_runtime.protocol.errors import ConfigurationError, DataError
from psr_runtime.stage import Outcome, StageContext
from psr_runtime.storage import join
from psr_runtime.training.checkpoint import write_checkpoint
from psr_runtime.training.data import Limit, PairSample, pair_samples
from psr_runtime.training.likelihood import response_logprobs, sums
from psr_runtime.training.probes import POOL, fingerprint
from psr_runtime.training.resume import ResumeStates
from psr_runtime.training.sft import HISTORY, write_history
from psr_runtime.training.trainer import train
from psr_runtime.training.updates import Updates
from psr_runtime.training.weights import load_model

Scores = list[list[float]]
"""For each pair log π(chosen) and log π(rejected), nats."""


def run(config: StepDPOStage, context: StageContext) -> Outcome:
    """Train `config.model` on a pair set against a fixed reference.

    Raises:
        ConfigurationError: a model without weights of its own.
        InputMissing: model, reference or pairs are not there.
        DataError: they cannot be read, pairs come from another tokenizer, or a sequence is too long.
        Interrupted: asked to stop; the same call goes on later.
    """
    training = config.training
    for name, given in (("model", config.model), ("reference", config.reference)):
        if given is not None and given.weights == "Random":
            raise ConfigurationError(f"{name}.weights: step-DPO trains a model that has weights; leave out Random")
    source = fetch_model(context.storage, config.model, context.scratch / "model", "training").folder
    tokenizer = Tokenizer(source, config.model.chat_template)
    model = load_model(source)
    limit = Limit.of(training.max_length, context_length(source), model.get_input_embeddings().num_embeddings)
    pairs = pair_samples(context.storage, config, tokenizer, limit)

    updates = Updates(
        lengths=[len(pair) for pair in pairs],
        counts=[1] * len(pairs),
        epochs=training.epochs,
        global_batch=training.global_batch,
        micro_batch=training.micro_batch,
        seed=config.seed,
    )
    states = ResumeStates(context.storage, join(config.output, "resume"), context.digest)
    before, reference = _scores_before(config, context, states, source, model, pairs, updates)
    loss = StepDPOLoss(pairs, reference, training)
    history = train(model, updates, loss, training, context, states, seed=config.seed)
    after = score(model, pairs, updates, training.precision, context)

    folder = context.scratch / "checkpoint"
    metadata = write_checkpoint(
        folder,
        model,
        source,
        tokenizer,
        serving_dtype=training.checkpoint_dtype,
        chat_template=config.model.chat_template,
    )
    moved = _most_moved(pairs, before, after)
    print_of_model, changed = fingerprint(model, source, moved, training.checkpoint_dtype)
    (folder / FINGERPRINT).write_text(print_of_model.model_dump_json())
    write_history(folder / HISTORY, history)

    scored = sum(len(pair.chosen.response) + len(pair.rejected.response) for pair in pairs)
    margins = [
        training.beta * ((chosen - reference[index][0]) - (rejected - reference[index][1]))
        for index, (chosen, rejected) in enumerate(after)
    ]
    result = StepDPOResult(
        updates=len(updates),
        pairs=len(pairs),
        tokens=training.epochs * sum(len(pair.chosen) + len(pair.rejected) for pair in pairs),
        scored_tokens=training.epochs * scored,
        loss_first=history[0]["loss"],
        loss_last=history[-1]["loss"],
        preference_accuracy=round(fmean(margin > 0 for margin in margins), 6),
        mean_margin=round(fmean(margins), 6),
        chosen_logprob_change=round(fmean(new[0] - old[0] for new, old in zip(after, before, strict=True)), 6),
        rejected_logprob_change=round(fmean(new[1] - old[1] for new, old in zip(after, before, strict=True)), 6),
        mean_chosen_tokens=round(fmean(len(pair.chosen.response) for pair in pairs), 3),
        mean_rejected_tokens=round(fmean(len(pair.rejected.response) for pair in pairs), 3),
        changed_bf16_weights=changed,
    )
    return Outcome(folder, metadata | {"changed_bf16_weights": changed}, result)


class StepDPOLoss:
    """Paper eqs. 6-8: −log σ(β (log π(chosen)/ref(chosen) − log π(rejected)/ref(rejected))), summed over pairs.

    A step's log-probability is the sum over its ids, header and trailing newline included. With `nll_weight` λ,
    λ · (−log π(chosen)/|chosen|) is added to every pair.

    Args:
        reference: log-probabilities of the reference, fixed.
    """

    def __init__(self, pairs: Sequence[PairSample], reference: Scores, config: StepDPOConfig) -> None:
        self._pairs, self._reference, self._config = pairs, reference, config

    def __call__(self, model: Any, records: Sequence[int]) -> Tensor:
        pairs = [self._pairs[record] for record in records]
        chosen, rejected = _pair_logprobs(model, pairs, self._config.precision)
        reference = torch.tensor([self._reference[record] for record in records], device=chosen.device)
        margins = self._config.beta * ((chosen - reference[:, 0]) - (rejected - reference[:, 1]))
        loss = -torch.nn.functional.logsigmoid(margins).sum()
        if self._config.nll_weight:
            tokens = torch.tensor([len(pair.chosen.response) for pair in pairs], device=chosen.device)
            loss = loss - self._config.nll_weight * (chosen / tokens).sum()
        return loss


@torch.no_grad()
def score(model: Any, pairs: Sequence[PairSample], updates: Updates, precision: str, context: StageContext) -> Scores:
    """Log-probabilities of every pair under a model.

    The pairs go through in the micro-batches of the first epoch: with reference = policy the first loss is then
    ln 2 exactly, since the very same sums are subtracted from themselves.

    Raises:
        Interrupted: the stage was asked to stop.
    """
    scores: Scores = [[] for _ in pairs]
    context.progress.start(len(pairs), "pairs scored")
    for number in range(updates.first_epoch):
        for records in updates[number]["micro"]:
            context.check_stop()
            chosen, rejected = _pair_logprobs(model, [pairs[record] for record in records], precision)
            for record, values in zip(records, torch.stack([chosen, rejected], dim=1).tolist(), strict=True):
                scores[record] = values
            context.progress.advance(len(records))
    return scores


def _pair_logprobs(model: Any, pairs: Sequence[PairSample], precision: str) -> tuple[Tensor, Tensor]:
    samples = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
    chosen, rejected = sums(response_logprobs(model, samples, precision), samples).chunk(2)
    return chosen, rejected


def _scores_before(
    config: StepDPOStage,
    context: StageContext,
    states: ResumeStates,
    source: Path,
    model: Any,
    pairs: Sequence[PairSample],
    updates: Updates,
) -> tuple[Scores, Scores]:
    """Scores of the untrained policy and of the reference, computed once and kept with the resumable states."""
    found = states.scores()
    if found is None:
        policy = score(model, pairs, updates, config.training.precision, context)
        reference = policy
        if config.reference is not None:
            folder = fetch_model(context.storage, config.reference, context.scratch / "reference", "training").folder
            if tokenizer_digest(folder) != tokenizer_digest(source):
                raise DataError(
                    f"{config.reference.uri}: the reference's tokenizer is {tokenizer_digest(folder)}, the policy's "
                    f"{tokenizer_digest(source)}; both must read the same ids"
                )
            reference = score(load_model(folder), pairs, updates, config.training.precision, context)
        found = {"policy": policy, "reference": reference}
        states.keep_scores(found)
    return found["policy"], found["reference"]


def _most_moved(pairs: Sequence[PairSample], before: Scores, after: Scores) -> list[list[int]]:
    """Sequences whose log-probability moved most in training, as many as are tried for a fingerprint."""
    moves = [
        (abs(after[index][side] - before[index][side]), index, side) for index in range(len(pairs)) for side in (0, 1)
    ]
    moves.sort(key=lambda move: (-move[0], *move[1:]))
    return [(pairs[index].rejected if side else pairs[index].chosen).ids for _, index, side in moves[:POOL]]
