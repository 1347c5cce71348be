"""Fingerprint of a checkpoint: probe sequences with the log-probabilities that a model and its parent give them.

A name and a digest say which weights a server *should* have; only its answers say which it has. A server is ready
for a model when its log-probabilities of the probes are as near to the new model's as a cold start comes, and nearer
to them than to the parent's by `FACTOR`. The second alone would not do: where a swap leaves the old output head in
place (tied embeddings under vLLM), the rest of the update brings the answers six times nearer to the new model's.
Pure functions on numbers; who computes the log-probabilities (a trainer, a server) stands elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

FACTOR = 4.0
"""Nearer by this much is near; fewer times the noise apart cannot be told apart."""

NOISE = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}
"""Mean absolute difference, in nats a token, that a cold start in this dtype may have from `Probe.new` (computed in
float32 from the same weights). Measured on CPU: float32 1e-6 (a random model of 0.1 M parameters) and 6e-6
(SmolLM2-135M), bfloat16 0.019 and 0.039, float16 0.0025 for the first."""


class Probe(BaseModel):
    """One probe sequence.

    Attributes:
        ids: token ids, two at least.
        new, parent: log-probabilities of `ids[1:]` under the new model and under its parent, in nats.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    ids: list[int] = Field(min_length=2)
    new: list[float]
    parent: list[float] | None

    @model_validator(mode="after")
    def _fits(self) -> Probe:
        for name, values in (("new", self.new), ("parent", self.parent)):
            if values is None:
                continue
            if len(values) != len(self.ids) - 1:
                raise ValueError(f"{name} has {len(values)} log-probabilities for {len(self.ids) - 1} tokens")
            if not all(math.isfinite(value) for value in values):
                raise ValueError(f"{name} holds a log-probability that is not finite")
        return self


class Fingerprint(BaseModel):
    """`fingerprint.json`: probes and the dtype of the weights they were computed from."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    dtype: str
    probes: list[Probe] = Field(min_length=1)

    @property
    def separation(self) -> float | None:
        """Distance of the new model and its parent on the probes; None without a parent."""
        if any(probe.parent is None for probe in self.probes):
            return None
        return distance([probe.new for probe in self.probes], [probe.parent or [] for probe in self.probes])

    def can_tell(self, noise: float) -> bool:
        """Whether the probes can tell the new model from its parent at this noise."""
        separation = self.separation
        return separation is not None and separation >= FACTOR * noise


@dataclass(frozen=True)
class Check:
    """What a server's log-probabilities say about the weights it has.

    Attributes:
        verdict: `Agrees`: they are the new model's. `Refuses`: they are not. `Inconclusive`: the new model cannot be
            told from its parent, or has none.
        to_new, to_parent: distances of the server, in nats a token.
        separation: distance of the new model and its parent.
        noise: distance that a right cold start may have.
    """

    verdict: Literal["Agrees", "Refuses", "Inconclusive"]
    to_new: float
    to_parent: float | None
    separation: float | None
    noise: float

    @property
    def accepts_cold_start(self) -> bool:
        """Whether a server that loaded the weights from disk is right: it agrees, or is near where nothing tells."""
        return self.verdict == "Agrees" or (self.verdict == "Inconclusive" and self.to_new <= FACTOR * self.noise)

    def to_json(self) -> dict[str, Any]:
        """The check as JSON values; a distance that is not finite becomes null."""
        return {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in asdict(self).items()
        }

    def __str__(self) -> str:
        parent = "no parent" if self.to_parent is None else f"{self.to_parent:.3g} from the parent"
        apart = "" if self.separation is None else f"; the two are {self.separation:.3g} apart"
        return f"{self.to_new:.3g} nats a token from the model, {parent}{apart}; noise {self.noise:.3g}"


def compare(fingerprint: Fingerprint, measured: Sequence[Sequence[float]], noise: float) -> Check:
    """Compare a server's log-probabilities of the probes with those of the new model and of its parent.

    Args:
        measured: for each probe the log-probabilities of its tokens after the first, in nats. A probe may be cut
            short (a server with a shorter context): log-probabilities are causal.
        noise: distance from the right model that a cold start may have, see `noise_of`.

    Raises:
        ValueError: `measured` has another number of probes, or a probe without tokens.
    """
    to_new = distance(measured, [probe.new for probe in fingerprint.probes])
    separation = fingerprint.separation
    to_parent = None
    if separation is not None:
        to_parent = distance(measured, [probe.parent or [] for probe in fingerprint.probes])
    verdict: Literal["Agrees", "Refuses", "Inconclusive"]
    if not math.isfinite(to_new):
        verdict = "Refuses"
    elif to_parent is None or not fingerprint.can_tell(noise):
        verdict = "Inconclusive"
    else:
        verdict = "Agrees" if to_new * FACTOR <= to_parent and to_new <= FACTOR * noise else "Refuses"
    return Check(verdict, to_new, to_parent, separation, noise)


def distance(one: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> float:
    """Mean absolute difference over all tokens of all probes, in nats a token; infinite where a value is not finite.

    The mean, because rounding errs on every token a little while other weights err on many: a maximum would let one
    unlucky token decide, a sum would grow with the probes' length, a mean of signed differences would cancel.
    """
    if len(one) != len(other):
        raise ValueError(f"{len(one)} probes measured, {len(other)} in the fingerprint")
    total, count = 0.0, 0
    for left, right in _tokens(one, other):
        total += abs(left - right)
        count += 1
    return total / count if math.isfinite(total) else math.inf


def _tokens(one: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> Iterator[tuple[float, float]]:
    for number, (left, right) in enumerate(zip(one, other, strict=True)):
        if not left or not right:
            raise ValueError(f"probe {number} has no tokens")
        yield from zip(left, right, strict=False)


def noise_of(engine_dtype: str) -> float:
    """Noise of a cold start of an engine of this dtype, in nats a token; an unknown dtype counts as the coarsest.

    The weights' own dtype does not matter: the fingerprint is computed from the weights as they lie on the disk.
    """
    return NOISE.get(engine_dtype, max(NOISE.values()))
