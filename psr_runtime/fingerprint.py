"""Fingerprint of a checkpoint: probe sequences with the log-probabilities that a model and its parent give them."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Probe(BaseModel):
    """One probe sequence.

    Attributes:
        ids: token ids, two at least.
        new, parent: log-probabilities of `ids[1:]` under the new model and under its parent, in nats.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    ids: list[int]
    new: list[float]
    parent: list[float] | None


class Fingerprint(BaseModel):
    """`fingerprint.json`: probes and the dtype of the weights they were computed from."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    dtype: str
    probes: list[Probe]
