"""A language small enough to know by heart: the next token depends on the last one alone.

It speaks of `2 + 1 + 1` in steps, rightly and wrongly; some steps are malformed, some never end, some end in EOS, and
the third step is always the same. `write_model` makes a model whose weights are exactly this chain, so a real vLLM
that serves it and `StandIn`, which samples the chain in process, speak the same language.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from psr_runtime.storage import file_uri

USER, END, UNKNOWN = "<user>", "<end>", "<unknown>"
DIGITS = [*"0123456789"]
FIRST_ENDS = ["3.\n", "4.\n", "5.\n"]
SECOND_ENDS = ["4;\n", "5;\n", "6;\n"]
WORDS = [
    *(USER, END, UNKNOWN, *DIGITS, "How much is ", " + ", "?", "\n"),
    *("Step 1: ", "Step 2: ", "Step 3: ", "Step 4: ", "2 + 1 = ", "1 + 2 = ", "3 + 1 = ", "4 + 1 = "),
    *(*FIRST_ENDS, "3.", "4.", "5.", *SECOND_ENDS, "4;", "5;", "6;", "So it is ", "\\boxed{", "}", "and on "),
    *("A: ", "B: ", "Check:", "A is right. ", "B is right. ", "Hm. ", "[[A]]", "[[B]]"),
]
EOS = WORDS.index(END)
CHAT = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{{ m.content }}<end>\n"
    "{% else %}<user>{{ m.content }}{% endif %}{% endfor %}"
)
PROMPTS = {"solve": "{problem}", "judge": "{Question and Partial Reasoning Steps}\nA: {Step A}\nB: {Step B}\nCheck:"}
CONTEXT = 512
HIDDEN = 64

NEXT: dict[str, dict[str, float]] = {
    "?": {"Step 1: ": 0.9, "Step 2: ": 0.1},
    "Step 1: ": {"2 + 1 = ": 0.65, "1 + 2 = ": 0.25, "and on ": 0.1},
    "2 + 1 = ": {"3.\n": 0.5, "4.\n": 0.3, "5.\n": 0.2},
    "1 + 2 = ": {"3.\n": 0.7, "4.\n": 0.3},
    **{key: {"Step 2: ": 0.9, "Step 1: ": 0.05, END: 0.05} for key in FIRST_ENDS},
    "Step 2: ": {"3 + 1 = ": 0.65, "4 + 1 = ": 0.25, "and on ": 0.1},
    "3 + 1 = ": {"4;\n": 0.7, "5;\n": 0.3},
    "4 + 1 = ": {"5;\n": 0.6, "6;\n": 0.4},
    **{key: {"Step 3: ": 0.95, "Step 2: ": 0.05} for key in SECOND_ENDS},
    "Step 3: ": {"So it is ": 1.0},
    "So it is ": {"\\boxed{": 1.0},
    "\\boxed{": {"4": 1.0},
    **{key: {"}": 1.0} for key in DIGITS},
    "}": {END: 0.7, "\n": 0.3},
    "\n": {"Step 4: ": 1.0},
    "and on ": {"and on ": 1.0},
    "Check:": {"A is right. ": 0.5, "B is right. ": 0.4, "Hm. ": 0.1},
    "A is right. ": {"[[A]]": 1.0},
    "B is right. ": {"[[B]]": 1.0},
}
"""What follows a word, and how often; after any other word the turn ends."""


def after(token: int) -> dict[int, float]:
    """Ids that can follow an id, with their probabilities."""
    return {WORDS.index(word): share for word, share in NEXT.get(WORDS[token], {END: 1.0}).items()}


def encode(text: str) -> list[int]:
    """Ids of a text that is made of `WORDS`, the longest that fits first."""
    ids = []
    while text:
        word = max((word for word in WORDS if text.startswith(word)), key=len)
        ids.append(WORDS.index(word))
        text = text[len(word) :]
    return ids


def write_problems(path: Path, count: int, *, answer: str = "4") -> Path:
    """Problems with ids `q0` … that differ from their first number on; all have the same answer."""
    lines = [
        json.dumps({"id": f"q{n}", "problem": f"How much is {n} + 1" + " + 0" * (40 + n) + "?", "answer": answer})
        for n in range(count)
    ]
    path.write_text("".join(line + "\n" for line in lines))
    return path


def write_model(folder: Path) -> Path:
    """A Qwen2 folder that speaks this language: one-hot embeddings, layers that add nothing, log-probabilities as head.

    Written without torch, so that a process which is to be forked need not have used it.
    """
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(_config(), indent=1))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": EOS, "pad_token_id": EOS}))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer_json(WORDS, special=3)))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END, "pad_token": END, "unk_token": UNKNOWN}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": CHAT}))
    save_file(_weights(), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def search_fields(model: Path, problems: Path) -> dict[str, Any]:
    """Configuration of a search with a judge that samples, so that its verdicts differ."""
    return {
        "model": {"uri": file_uri(model)},
        "problems": file_uri(problems),
        "questions": {"count": 8},
        "prompts": PROMPTS,
        "search": {"width": 4, "temperature": 1.0, "topP": 1.0, "maxStepTokens": 8, "acceptUnanimous": True},
        "judge": {"temperature": 1.0, "maxTokens": 4},
        "server": {"urls": ["http://127.0.0.1:9"]},
    }


def tokenizer_json(words: list[str], *, special: int) -> dict[str, Any]:
    """`tokenizer.json` of a word-level tokenizer, the longest word first; the first `special` words are special."""
    longest_first = sorted(words[special:], key=lambda word: (-len(word), word))
    pattern = "|".join("".join(c if c.isalnum() or c in " \n" else "\\" + c for c in word) for word in longest_first)
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": number, "content": word, **flags} for number, word in enumerate(words[:special])],
        "normalizer": None,
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
        "post_processor": None,
        "decoder": {"type": "Fuse"},
        "model": {
            "type": "WordLevel",
            "vocab": {word: number for number, word in enumerate(words)},
            "unk_token": words[special - 1],
        },
    }


def _config() -> dict[str, Any]:
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "vocab_size": len(WORDS),
        "hidden_size": HIDDEN,
        "intermediate_size": HIDDEN,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "use_sliding_window": False,
        "tie_word_embeddings": False,
        "dtype": "float32",
        "bos_token_id": None,
        "eos_token_id": EOS,
        "pad_token_id": EOS,
    }


def _weights() -> dict[str, Any]:
    size, half = len(WORDS), HIDDEN // 2
    head = np.full((size, HIDDEN), -30.0, dtype=np.float32)  # what never follows
    for token in range(size):
        for successor, share in after(token).items():
            head[successor, token] = math.log(share)
    layer = "model.layers.0."
    random = np.random.default_rng(0)
    weights = {
        "model.embed_tokens.weight": np.eye(size, HIDDEN),
        "model.norm.weight": np.ones(HIDDEN),
        "lm_head.weight": head / math.sqrt(HIDDEN),  # the norm makes a one-hot vector this much longer
        layer + "input_layernorm.weight": np.ones(HIDDEN),
        layer + "post_attention_layernorm.weight": np.ones(HIDDEN),
        layer + "self_attn.o_proj.weight": np.zeros((HIDDEN, HIDDEN)),
        layer + "mlp.down_proj.weight": np.zeros((HIDDEN, HIDDEN)),
    }
    for name, rows in (("q", HIDDEN), ("k", half), ("v", half)):
        weights[f"{layer}self_attn.{name}_proj.weight"] = random.normal(size=(rows, HIDDEN)) * 0.1
        weights[f"{layer}self_attn.{name}_proj.bias"] = np.zeros(rows)
    for name in ("gate", "up"):
        weights[f"{layer}mlp.{name}_proj.weight"] = random.normal(size=(HIDDEN, HIDDEN)) * 0.1
    return {name: np.ascontiguousarray(value, dtype=np.float32) for name, value in weights.items()}
