"""Step-wise DPO: a policy is trained on its own step preferences, M(i) -> M(i+1) (paper §3.4, eqs. 6-8)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from psr_runtime.artefacts.checkpoints import fetch_model
from psr_runtime.artefacts.manifest import read_manifest
from psr_runtime.config import StepDPOConfig, StepDPOStage
from psr_runtime.config.results import StepDPOResult, TrainingResult
from psr_runtime.data.records import Pair
from psr_runtime.data.tokenised import OUTSIDE
from psr_runtime.prompts.tokens import tokenizer_digest
from psr_runtime.protocol.errors import DataError
from psr_runtime.stage import StageContext
from psr_runtime.training.data import policy_pairs, prompt_of
from psr_runtime.training.layouts import LAYOUTS, Layout
from psr_runtime.training.objectives import Policy
from psr_runtime.training.probes import POOL
from psr_runtime.training.resume import ResumeStates
from psr_runtime.training.updates import Updates
from psr_runtime.training.weights import load_model

Scores = list[list[float]]
"""For each pair log π(chosen) and log π(rejected), nats."""


class StepDPO:
    """Preference pairs, and the step-DPO loss against a fixed reference.

    Raises:
        ConfigurationError: a layout that nobody brings.
        InputMissing: pairs are not there.
        DataError: they cannot be read, come from another tokenizer, or a sequence is too long.
    """

    groups: Sequence[int] | None = None
    eos_ids: Sequence[int] | None = None

    def __init__(self, config: StepDPOStage, context: StageContext, policy: Policy, states: ResumeStates) -> None:
        self._config, self._context, self._policy, self._states = config, context, policy, states
        self._pairs = policy_pairs(context.storage, config, policy.tokenizer)
        self.frame: Mapping[str, Any] | None = None
        manifest = read_manifest(context.storage, config.pairs)
        if manifest is not None:
            self.frame = manifest.metadata.get("frame")
        elif all(pair.model_digest == OUTSIDE for pair in self._pairs):  # their prompts were rendered here
            self.frame = policy.tokenizer.chat.frame
        self._layout = LAYOUTS.load(config.training.layout)(self._pairs, config.pairs, policy.limit)
        self._before: Scores = []
        self._reference: Scores = []
        self._after: Scores = []
        self.lengths: Sequence[int] = self._layout.lengths
        self.counts: Sequence[int] = [1] * len(self._pairs)
        self.tokens = self._layout.tokens

    def begin(self, model: Any, updates: Updates) -> None:
        """Scores of the untrained policy and of the reference, computed once and kept with the resumable states.

        Raises:
            DataError: the reference has another tokenizer.
        """
        scores = self._states.scores()
        if scores is None:
            policy = self._score(model, updates)
            reference = policy
            if self._config.reference is not None:
                reference = self._score(self._load_reference(), updates)
            scores = {"policy": policy, "reference": reference}
            self._states.keep_scores(scores)
        self._before, self._reference = scores["policy"], scores["reference"]
        self._loss = StepDPOLoss(self._pairs, self._layout, self._reference, self._config.training)

    def loss(self, model: Any, records: Sequence[int]) -> Tensor:
        """See `Objective.loss`."""
        return self._loss(model, records)

    def end(self, model: Any, updates: Updates) -> None:
        """Scores of the trained policy."""
        self._after = self._score(model, updates)

    def probes(self) -> list[list[int]]:
        """Sequences whose log-probability moved most, as many as are tried for a fingerprint."""
        moves = [
            (abs(self._after[index][side] - self._before[index][side]), index, side)
            for index in range(len(self._pairs))
            for side in (0, 1)
        ]
        moves.sort(key=lambda move: (-move[0], *move[1:]))
        moved = [(self._pairs[index], side) for _, index, side in moves[:POOL]]
        return [prompt_of(pair) + (pair.rejected_ids if side else pair.chosen_ids) for pair, side in moved]

    def result(self, shared: TrainingResult) -> StepDPOResult:
        """What the training did to the preferences."""
        training, pairs = self._config.training, self._pairs
        margins = [
            training.beta * ((chosen - reference[0]) - (rejected - reference[1]))
            for (chosen, rejected), reference in zip(self._after, self._reference, strict=True)
        ]
        changes = [(new[0] - old[0], new[1] - old[1]) for new, old in zip(self._after, self._before, strict=True)]
        return StepDPOResult(
            **shared.to_json(),
            pairs=len(pairs),
            scored_tokens=training.epochs * sum(len(pair.chosen_ids) + len(pair.rejected_ids) for pair in pairs),
            preference_accuracy=round(fmean(margin > 0 for margin in margins), 6),
            mean_margin=round(fmean(margins), 6),
            chosen_logprob_change=round(fmean(chosen for chosen, _ in changes), 6),
            rejected_logprob_change=round(fmean(rejected for _, rejected in changes), 6),
            mean_chosen_tokens=round(fmean(len(pair.chosen_ids) for pair in pairs), 3),
            mean_rejected_tokens=round(fmean(len(pair.rejected_ids) for pair in pairs), 3),
        )

    def _score(self, model: Any, updates: Updates) -> Scores:
        return score(model, self._layout, updates, self._config.training.precision, self._context)

    def _load_reference(self) -> Any:
        assert self._config.reference is not None
        fetched = fetch_model(
            self._context.storage, self._config.reference, self._context.scratch / "reference", "training"
        )
        if tokenizer_digest(fetched.folder) != tokenizer_digest(self._policy.folder):
            raise DataError(
                f"{self._config.reference.uri}: the reference's tokenizer is {tokenizer_digest(fetched.folder)}, the "
                f"policy's {tokenizer_digest(self._policy.folder)}; both must read the same ids"
            )
        return load_model(fetched.folder)


class StepDPOLoss:
    """Paper eqs. 6-8: −log σ(β (log π(chosen)/ref(chosen) − log π(rejected)/ref(rejected))), summed over pairs.

    A step's log-probability is the sum over its ids, header and trailing newline included. With `nll_weight` λ,
    λ · (−log π(chosen)/|chosen|) is added to every pair.

    Args:
        pairs: ids as sampled.
        layout: of the same pairs.
        reference: log-probabilities of the reference, fixed.
    """

    def __init__(self, pairs: Sequence[Pair], layout: Layout, reference: Scores, config: StepDPOConfig) -> None:
        self._pairs, self._layout, self._reference, self._config = pairs, layout, reference, config

    def __call__(self, model: Any, records: Sequence[int]) -> Tensor:
        """The summed loss of some pairs: a scalar with gradient, float32."""
        chosen, rejected = self._layout.logprobs(model, records, self._config.precision)
        reference = torch.tensor([self._reference[record] for record in records], device=chosen.device)
        margins = self._config.beta * ((chosen - reference[:, 0]) - (rejected - reference[:, 1]))
        loss = -torch.nn.functional.logsigmoid(margins).sum()
        if self._config.nll_weight:
            tokens = torch.tensor([len(self._pairs[record].chosen_ids) for record in records], device=chosen.device)
            loss = loss - self._config.nll_weight * (chosen / tokens).sum()
        return loss


@torch.no_grad()
def score(model: Any, layout: Layout, updates: Updates, precision: str, context: StageContext) -> Scores:
    """Log-probabilities of every pair under a model.

    The pairs go through in the micro-batches of the first epoch: with reference = policy the first loss is then
    ln 2 exactly, since the very same sums are subtracted from themselves.

    Raises:
        Interrupted: the stage was asked to stop.
    """
    scores: Scores = [[] for _ in layout.lengths]
    context.progress.start(len(scores), "pairs scored")
    for number in range(updates.first_epoch):
        for records in updates[number]["micro"]:
            context.check_stop()
            chosen, rejected = layout.logprobs(model, records, precision)
            for record, values in zip(records, torch.stack([chosen, rejected], dim=1).tolist(), strict=True):
                scores[record] = values
            context.progress.advance(len(records))
    return scores
