"""Log-probabilities of responses under a model: the one computation behind SFT, DPO, references and fingerprints."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from psr_runtime.protocol.errors import DataError
from psr_runtime.training.data import Sample


def response_logprobs(model: Any, samples: Sequence[Sample], precision: str) -> Tensor:
    """log π(token | everything before it) of every response token.

    Sequences are padded on the right and no attention mask is sent: under a causal mask no token sees what follows
    it. Only the hidden states that predict a response token reach the language-model head, so no logits of prompts
    are ever held in memory.

    Args:
        model: a causal language model of transformers, on its device.
        samples: the micro-batch.
        precision: `bfloat16` (autocast) or `float32`.

    Returns:
        float32, one dimension: the responses' tokens, sample after sample. Split by `len(sample.response)`.
    """
    device = next(model.parameters()).device
    width = max(len(sample) for sample in samples)
    ids = torch.tensor([sample.ids + [0] * (width - len(sample)) for sample in samples], device=device)
    ends = [(row * width + len(sample.prompt), len(sample.response)) for row, sample in enumerate(samples)]
    predicted = torch.cat([torch.arange(start, start + count) for start, count in ends]).to(device)
    with (
        torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16"),
        _head_sees_only(model, predicted - 1),
    ):
        logits = model(input_ids=ids, use_cache=False).logits
    if logits.shape[:-1] != predicted.shape:
        raise DataError(
            f"{type(model).__name__}: the model does not apply its output embeddings as a module; "
            "this architecture cannot be trained here"
        )
    return -torch.nn.functional.cross_entropy(logits.float(), ids.flatten()[predicted], reduction="none")


def sums(logprobs: Tensor, samples: Sequence[Sample]) -> Tensor:
    """log π(response) of each sample (paper eq. 6): the sum over its tokens, not divided by their number."""
    return torch.stack([part.sum() for part in logprobs.split([len(sample.response) for sample in samples])])


@contextlib.contextmanager
def _head_sees_only(model: Any, positions: Tensor) -> Iterator[None]:
    """Let only these positions (rows and columns flattened) of the last hidden states reach the head."""

    def select(_: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (inputs[0].flatten(0, 1)[positions],)

    handle = model.get_output_embeddings().register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()
