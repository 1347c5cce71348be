"""Bytes by arithmetic: of a model's weights, of training it on one device, and of serving it. Pure.

Only `config.json` is read. Norms and biases are left out; they are below one part in a hundred.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

FLOAT32, HALF = 4, 2
ADAMW = 2 * FLOAT32
"""Bytes a weight of AdamW's two moments."""
TRAINED = FLOAT32 + FLOAT32 + ADAMW
"""Bytes a weight of training: master weight, gradient, moments."""
RESUMED = FLOAT32 + ADAMW
"""Bytes a weight of a resumable state."""
ACTIVATIONS = 34
"""Bytes a token, layer and hidden unit that a layer's forward pass keeps for its backward pass in half precision
(Korthikanti et al. 2022, §4.1, without attention scores, which SDPA does not keep)."""
LOGITS = 3 * FLOAT32
"""Bytes a token and word of the vocabulary: logits, their log-probabilities, their gradient."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a causal language model.

    Attributes:
        weights: number of them, embeddings included.
        active: that one token passes through; fewer with experts.
        cached: numbers that one token leaves in the key-value cache.
    """

    weights: int
    active: int
    layers: int
    hidden: int
    vocabulary: int
    cached: int

    def checkpoint_bytes(self, serving_dtype: str) -> int:
        """Of a checkpoint: float32 master and serving copy."""
        return self.weights * (FLOAT32 + bytes_of(serving_dtype))

    def serving_bytes(self, dtype: str) -> int:
        """Of the weights in a server."""
        return self.weights * bytes_of(dtype)

    def cache_bytes(self, tokens: int, dtype: str) -> int:
        """Of the key-value cache of one sequence."""
        return self.cached * tokens * bytes_of(dtype)

    def training_bytes(self, tokens: int) -> int:
        """Of training on one device with `tokens` in one pass; an upper bound, as if nothing were recomputed."""
        kept = tokens * (self.layers * self.hidden * ACTIVATIONS + self.vocabulary * LOGITS)
        return self.weights * (TRAINED + HALF) + kept


def bytes_of(dtype: str) -> int:
    """Bytes of a number of a dtype, as the manifest names it."""
    return FLOAT32 if dtype == "float32" else HALF


def shape_of(config: Mapping[str, Any]) -> Shape | None:
    """Sizes by a model's `config.json`; None where it does not name them as most architectures do."""
    names = ("hidden_size", "num_hidden_layers", "vocab_size", "num_attention_heads", "intermediate_size")
    sizes = [config[name] for name in names if isinstance(config.get(name), int) and config[name] > 0]
    if len(sizes) < len(names):
        return None
    hidden, layers, vocabulary, heads, inner = sizes
    head = int(config.get("head_dim") or hidden // heads)
    pairs = int(config.get("num_key_value_heads") or heads)
    attention = 2 * hidden * heads * head + 2 * hidden * pairs * head
    experts = int(config.get("num_experts") or config.get("num_local_experts") or 0)
    expert = 3 * hidden * int(config.get("moe_intermediate_size") or inner)
    mlp = experts * expert if experts else 3 * hidden * inner
    used = int(config.get("num_experts_per_tok") or 1) * expert if experts else mlp
    embeddings = vocabulary * hidden * (1 if config.get("tie_word_embeddings") else 2)
    return Shape(
        weights=layers * (attention + mlp) + embeddings,
        active=layers * (attention + used) + vocabulary * hidden,
        layers=layers,
        hidden=hidden,
        vocabulary=vocabulary,
        cached=2 * layers * pairs * head,
    )


def readable(size: float) -> str:
    """A size for people: `1.2 GB`."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:.3g} {unit}"
    return f"{size:.0f} bytes"
