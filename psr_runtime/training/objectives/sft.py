"""Supervised fine-tuning on solving and judging, M0 -> M1 (paper §3.2, §4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from psr_runtime.config import SFTStage
from psr_runtime.config.results import SFTResult, TrainingResult
from psr_runtime.stage import StageContext
from psr_runtime.training.data import sft_samples
from psr_runtime.training.likelihood import response_logprobs
from psr_runtime.training.objectives import Policy
from psr_runtime.training.probes import pick
from psr_runtime.training.resume import ResumeStates
from psr_runtime.training.updates import Updates


class SupervisedFineTuning:
    """−log π(response), averaged over the response tokens of a global batch.

    The response and the token that ends the turn count, prompts do not.

    Raises:
        InputMissing: records are not there.
        DataError: they cannot be read, or a record is too long.
    """

    def __init__(self, config: SFTStage, context: StageContext, policy: Policy, _: ResumeStates) -> None:
        self._config = config
        self._ift, self._eft = sft_samples(context.storage, config, policy.tokenizer, policy.limit)
        self._samples = self._ift + self._eft
        self.lengths: Sequence[int] = [len(sample) for sample in self._samples]
        self.counts: Sequence[int] = [len(sample.response) for sample in self._samples]
        sequential = config.training.mixing == "Sequential"
        self.groups: Sequence[int] | None = [len(self._ift), len(self._eft)] if sequential else None
        self.tokens = sum(self.lengths)
        self.eos_ids: Sequence[int] | None = policy.tokenizer.eos_ids
        self.frame: Mapping[str, Any] | None = policy.tokenizer.chat.frame

    def begin(self, model: Any, updates: Updates) -> None:
        """Nothing is computed before."""

    def loss(self, model: Any, records: Sequence[int]) -> Tensor:
        """See `Objective.loss`."""
        samples = [self._samples[record] for record in records]
        return -response_logprobs(model, samples, self._config.training.precision).sum()

    def end(self, model: Any, updates: Updates) -> None:
        """Nothing is computed after."""

    def probes(self) -> list[list[int]]:
        """Records spread by the seed."""
        return [self._samples[record].ids for record in pick(len(self._samples), self._config.seed)]

    def result(self, shared: TrainingResult) -> SFTResult:
        """Records by kind, and tokens with loss over all epochs."""
        return SFTResult(
            **shared.to_json(),
            records=len(self._samples),
            ift=len(self._ift),
            eft=len(self._eft),
            response_tokens=self._config.training.epochs * sum(self.counts),
        )
