"""What the work to come takes, stage by stage: tokens, bytes, seconds and GPU seconds, by arithmetic. Pure.

How long solutions, steps and judgements are is measured on the data at hand (`Measured`); how often candidates differ
is read off the IFT records (`variety.py`). Speeds are those of a data sheet times a share that is usually reached: no
measurement backs them, and they are marked so wherever they are shown.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from psr_runtime.check.sizes import FLOAT32, Shape, bytes_of
from psr_runtime.check.variety import Variety
from psr_runtime.config import CheckStage, SearchConfig

UNKNOWN = Variety(0.0, 0.0)
WALKS = 400
"""Problems whose search is walked through to count levels."""


@dataclass(frozen=True)
class Device:
    """What a device does, by its data sheet.

    Attributes:
        flops: dense bfloat16 operations a second.
        bandwidth: bytes a second to and from its memory.
    """

    name: str
    flops: float
    bandwidth: float


DEVICES = {
    item.name: item
    for item in (
        Device("CPU", 1e11, 2e10),
        Device("L4", 121e12, 0.3e12),
        Device("A100", 312e12, 2.0e12),
        Device("H100", 989e12, 3.35e12),
        Device("H200", 989e12, 4.8e12),
        Device("B200", 2250e12, 8.0e12),
    )
}
TRAINING_SHARE, READING_SHARE, WRITING_SHARE = 0.35, 0.4, 0.5
"""Shares of a device's operations (training, reading prompts) and of its bandwidth (writing tokens) that are reached.
Assumed."""
RECOMPUTED = 4 / 3
"""Forward passes are done again for the backward pass. Assumed."""
TRANSFER = 1e9
"""Bytes a second between a pod and the storage. Assumed."""
START_SECONDS = 90.0
"""Of a server besides the transfer of its weights: imports, graphs, warm-up. Assumed."""


@dataclass(frozen=True)
class Measured:
    """Means over the data at hand, in tokens.

    Attributes:
        sft: whole records that fine-tuning reads in one epoch, and their mean length.
        prompt: solver prompts of the searches.
        steps: steps a solution, one entry a record.
        step, solution, judge_prompt, judgement: mean lengths.
        header: tokens of the next step's header, which every candidate but the last step's runs into before it stops.
        pairs: of a pair set that is there: how many, and the mean of both sequences together.
        evaluations: by name, how many problems and their mean prompt.
    """

    sft: tuple[int, float] = (0, 0.0)
    prompt: float = 0.0
    steps: Sequence[int] = ()
    step: float = 0.0
    solution: float = 0.0
    judge_prompt: float = 0.0
    judgement: float = 0.0
    header: float = 0.0
    pairs: tuple[int, float] = (0, 0.0)
    evaluations: Mapping[str, tuple[int, float]] = field(default_factory=dict)
    variety: Variety = UNKNOWN


@dataclass(frozen=True)
class Effort:
    """One stage.

    Attributes:
        read: tokens of prompts, each counted whenever it is sent.
        sampled: tokens that the model writes; `judged` of them in judgements.
        trained: tokens that pass through a training, all epochs.
        moved: bytes between pods and the storage.
        seconds: that it takes; assumed, as no measurement backs them.
        gpus: that are held meanwhile.
        bottleneck: what the time goes to.
        arithmetic: how the tokens or bytes come about.
    """

    name: str
    read: float = 0.0
    sampled: float = 0.0
    judged: float = 0.0
    trained: float = 0.0
    moved: float = 0.0
    seconds: float = 0.0
    gpus: int = 0
    bottleneck: str = ""
    arithmetic: str = ""

    @property
    def tokens(self) -> float:
        """Written and trained tokens: what results count, too."""
        return self.sampled + self.trained

    def to_json(self) -> dict[str, Any]:
        counts = {name: round(getattr(self, name)) for name in ("read", "sampled", "judged", "trained", "moved")}
        assumed = {"seconds": round(self.seconds, 1), "gpus": self.gpus, "bottleneck": self.bottleneck}
        return {"stage": self.name, **counts, "assumed": assumed, "arithmetic": self.arithmetic}


def levels_of(steps: Sequence[int], tied: float, search: SearchConfig) -> float:
    """Sampled levels a problem: the search walked through with ties by chance (paper §3.3).

    Args:
        steps: steps of solutions, one entry each.
        tied: share of levels that roll back.
    """
    if not steps:
        return 0.0
    rng, total = random.Random(0), 0
    for walk in range(WALKS):
        last, level, ties = steps[walk * len(steps) // WALKS % len(steps)], 1, dict[int, int]()
        for _ in range(search.max_iterations):
            total += 1
            if rng.random() >= tied:
                level += 1
                if level > last:
                    break
                continue
            ties[level] = ties.get(level, 0) + 1
            if ties[level] > search.max_rollbacks:
                break
            level = max(1, level - 1)
    return total / WALKS


@dataclass(frozen=True)
class Estimator:
    """Works out the stages of a configuration.

    Attributes:
        shape: of the model; None leaves seconds and bytes out.
    """

    config: CheckStage
    measured: Measured
    shape: Shape | None
    device: Device

    def stages(self) -> list[Effort]:
        """Every stage in order: data, fine-tuning, then model by model its evaluations, search, training, handover."""
        return [*self._begin(), *self._rounds()]

    def _begin(self) -> Iterator[Effort]:
        config = self.config
        if config.model is not None and self.shape is not None and config.model.weights == "Pretrained":
            moved = float(self.shape.serving_bytes("bfloat16"))
            yield self._transfer("data", moved, "the model once, in bfloat16")
        if config.sft is not None:
            records, length = self.measured.sft
            tokens = config.sft.epochs * records * length
            how = f"{config.sft.epochs} epochs × {records} records × {length:.1f} tokens"
            yield self._training("SFT", tokens, how, config.sft.checkpoint_dtype, forwards=1)
        if config.engine is not None and self.shape is not None:
            moved = float(self.shape.serving_bytes(config.engine.dtype)) * config.hardware.replicas
            how = f"weights to {config.hardware.replicas} replicas, then start-up"
            yield self._transfer("server start", moved, how, extra=START_SECONDS, gpus=self._serving_gpus)

    def _rounds(self) -> Iterator[Effort]:
        config = self.config
        if not config.rounds:
            if config.training is not None:
                count, length = self.measured.pairs
                tokens = config.training.epochs * count * length
                how = f"{config.training.epochs} epochs × {count} pairs × {length:.1f} tokens"
                yield self._training("DPO", tokens, how, config.training.checkpoint_dtype, forwards=2)
            yield from self._evaluations(1)
            return
        for number, questions in enumerate(config.rounds, 1):
            yield from self._evaluations(number)
            if config.search is None or config.judge is None:
                continue
            yield self.search(number, questions.count)
            if config.training is None:
                continue
            yield self.dpo(number, questions.count)
            if config.engine is not None and self.shape is not None:
                moved = float(self.shape.serving_bytes(config.engine.dtype)) * config.hardware.replicas
                how = f"M{number + 1} to {config.hardware.replicas} replicas"
                yield self._transfer(f"handover {number}", moved, how, gpus=self._serving_gpus)
        if config.training is not None:
            yield from self._evaluations(len(config.rounds) + 1)

    # --- one stage ---------------------------------------------------------------------------------------------

    def search(self, number: int, questions: int) -> Effort:
        """Candidates and judgements of one round."""
        config, measured = self.config, self.measured
        assert config.search is not None
        assert config.judge is not None
        levels = questions * self._levels
        steps = sum(measured.steps) / len(measured.steps) if measured.steps else 1.0
        beyond = measured.header * (1 - 1 / steps)
        step = min(measured.step + beyond, config.search.max_step_tokens)
        candidates = levels * config.search.width * step
        calls = levels * measured.variety.calls
        judged = calls * min(measured.judgement, config.judge.max_tokens)
        read = levels * (measured.prompt + measured.solution / 2) + calls * measured.judge_prompt
        how = (
            f"{questions} problems × {self._levels:.2f} levels × ({config.search.width} candidates × {step:.1f} tokens "
            f"+ {measured.variety.calls:.2f} judgements × {measured.judgement:.1f} tokens)"
        )
        return self._serving(f"search {number}", read, candidates + judged, judged, how)

    def dpo(self, number: int, questions: int) -> Effort:
        """Step-DPO on the pairs that a round is expected to give: one for each level whose candidates differ."""
        config, measured = self.config, self.measured
        assert config.training is not None
        steps = sum(measured.steps) / len(measured.steps) if measured.steps else 0.0
        pairs = questions * steps * (1 - measured.variety.unanimous)
        length = 2 * (measured.prompt + (steps + 1) / 2 * measured.step)
        tokens = config.training.epochs * pairs * length
        how = f"{config.training.epochs} epochs × {pairs:.0f} pairs × {length:.1f} tokens"
        return self._training(f"DPO {number}", tokens, how, config.training.checkpoint_dtype, forwards=2)

    def _evaluations(self, number: int) -> Iterator[Effort]:
        for item in self.config.evaluations:
            count, prompt = self.measured.evaluations.get(item.name, (0, 0.0))
            answer = min(self.measured.solution, item.evaluation.max_tokens)
            how = f"{count} problems × {answer:.1f} tokens"
            yield self._serving(f"{item.name} M{number}", count * prompt, count * answer, 0.0, how)

    # --- speeds: assumed -----------------------------------------------------------------------------------------

    @property
    def _levels(self) -> float:
        assert self.config.search is not None
        tied = 0.0 if self.config.search.accept_unanimous else self.measured.variety.unanimous
        return levels_of(self.measured.steps, tied, self.config.search)

    @property
    def _serving_gpus(self) -> int:
        return self.config.hardware.server_gpus * self.config.hardware.replicas

    def _training(self, name: str, tokens: float, how: str, dtype: str, *, forwards: int) -> Effort:
        """Training: six operations a weight and token, and the passes of the reference and of recomputing."""
        if self.shape is None:
            return Effort(name, trained=tokens, arithmetic=how)
        hardware = self.config.hardware
        operations = tokens * self.shape.active * (6 * RECOMPUTED + 2 * (forwards - 1))
        devices = max(1, hardware.training_gpus * hardware.training_nodes)
        busy = operations / (self.device.flops * TRAINING_SHARE * devices)
        moved = float(self.shape.weights * FLOAT32 + self.shape.checkpoint_bytes(dtype))
        bottleneck = "operations" if busy > moved / TRANSFER else "storage"
        gpus = hardware.training_gpus * hardware.training_nodes
        return Effort(
            name,
            trained=tokens,
            moved=moved,
            seconds=busy + moved / TRANSFER,
            gpus=gpus,
            bottleneck=bottleneck,
            arithmetic=how,
        )

    def _serving(self, name: str, read: float, sampled: float, judged: float, how: str) -> Effort:
        """Asking a server: prompts cost operations, written tokens cost reading all weights once a batch."""
        if self.shape is None or self.config.engine is None:
            return Effort(name, read, sampled, judged, arithmetic=how)
        replicas = self.config.hardware.replicas * self.config.engine.tensor_parallel
        reading = 2 * read * self.shape.active / (self.device.flops * READING_SHARE * replicas)
        batch = max(1, min(self.config.search.concurrency if self.config.search else 256, 256))
        weights = self.shape.serving_bytes(self.config.engine.dtype)
        context = self.measured.prompt + self.measured.solution
        a_token = weights / batch + self.shape.cached * context * bytes_of(self.config.engine.dtype)
        writing = sampled * a_token / (self.device.bandwidth * WRITING_SHARE * replicas)
        bottleneck = "memory bandwidth" if writing > reading else "operations"
        return Effort(
            name,
            read,
            sampled,
            judged,
            seconds=reading + writing,
            gpus=self._serving_gpus,
            bottleneck=bottleneck,
            arithmetic=how,
        )

    def _transfer(self, name: str, moved: float, how: str, *, extra: float = 0.0, gpus: int = 0) -> Effort:
        seconds = moved / TRANSFER
        bottleneck = "start-up" if extra > seconds else "storage"
        return Effort(name, moved=moved, seconds=seconds + extra, gpus=gpus, bottleneck=bottleneck, arithmetic=how)
