"""Fingerprint of a checkpoint: eight sequences by which a server proves which weights it serves.

The log-probabilities come from the serving weights, rounded to their dtype and computed in float32. Chosen are those
sequences of the round where the new model and its parent differ most.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from psr_runtime.artefacts.fingerprint import Fingerprint, Probe
from psr_runtime.training.checkpoint import DTYPES
from psr_runtime.training.data import Sample
from psr_runtime.training.likelihood import response_logprobs
from psr_runtime.training.weights import changed_in_bfloat16, load_model, round_weights

PROBES = 8
POOL = 32
"""Sequences that are tried for the eight."""
PROBE_TOKENS = 256


def fingerprint(
    model: Any, parent: Path | None, candidates: Sequence[list[int]], serving_dtype: str
) -> tuple[Fingerprint, int | None]:
    """Compare a trained model with its parent.

    Args:
        model: the new model. Its weights are rounded in place to the serving dtype: write the checkpoint first.
        parent: folder of the parent's float32 weights, None where the model was made from nothing.
        candidates: token ids of sequences of this round; the last 256 tokens of each, and at most `POOL`, are tried.

    Returns:
        The fingerprint, and how many weights differ from the parent's in bfloat16 (None without a parent).
    """
    pool = [ids[-PROBE_TOKENS:] for ids in candidates if len(ids) > 1][:POOL]
    round_weights(model, DTYPES[serving_dtype])
    new = [_logprobs(model, ids) for ids in pool]
    if parent is None:
        probes = [Probe(ids=ids, new=values, parent=None) for ids, values in zip(pool, new, strict=True)]
        return Fingerprint(dtype=serving_dtype, probes=probes[:PROBES]), None

    before = load_model(parent)
    changed = changed_in_bfloat16(model, before)
    round_weights(before, DTYPES[serving_dtype])
    probes = [Probe(ids=ids, new=values, parent=_logprobs(before, ids)) for ids, values in zip(pool, new, strict=True)]
    probes.sort(key=_difference, reverse=True)
    return Fingerprint(dtype=serving_dtype, probes=probes[:PROBES]), changed


def pick(count: int, seed: int) -> list[int]:
    """Indices of at most `POOL` of `count` records, spread by a seed."""
    return random.Random(f"probes, seed {seed}").sample(range(count), min(count, POOL))


def _difference(probe: Probe) -> float:
    """Mean absolute difference per token: the distance that a server's check uses."""
    assert probe.parent is not None
    return sum(abs(a - b) for a, b in zip(probe.new, probe.parent, strict=True)) / len(probe.new)


@torch.no_grad()
def _logprobs(model: Any, ids: list[int]) -> list[float]:
    """log π of every token after the first, six digits after the point."""
    values = response_logprobs(model, [Sample(ids[:1], ids[1:])], "float32")
    return [round(value, 6) for value in values.tolist()]
