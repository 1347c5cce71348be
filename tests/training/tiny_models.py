"""Tiny models with a tokenizer of their own, and records to train them on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from psr_runtime.data.records import Pair
from psr_runtime.prompts.tokens import tokenizer_digest
from psr_runtime.storage import file_uri

WORDS = ["<pad>", "<eos>", "<user>", "<assistant>", "\n", " ", "Step ", ": ", " + ", " = ", "\\boxed{", "}"]
WORDS += ["How much is ", "?", "A", "B", "[[", "]]", ". ", *"0123456789"]
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'assistant' %}<assistant>{{ m.content }}<eos>\n"
    "{% else %}<user>{{ m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
PROMPTS = {"solve": "{problem}", "judge": "{Question and Partial Reasoning Steps}\nA: {Step A}\nB: {Step B}\n"}


def make_model(folder: Path, config: Any, kind: Any, *, seed: int, tie: bool = False) -> Path:
    """Write a tiny model with the word tokenizer to `folder`."""
    torch.manual_seed(seed)
    model = kind(
        config(
            vocab_size=len(WORDS),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=256,
            initializer_range=0.3,
            tie_word_embeddings=tie,
            bos_token_id=None,
            eos_token_id=1,
            pad_token_id=0,
        )
    )
    model.save_pretrained(folder)
    inner = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<pad>"))
    longest_first = sorted(WORDS, key=len, reverse=True)
    pattern = "|".join("".join("\\" + c if not c.isalnum() else c for c in word) for word in longest_first)
    inner.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    inner.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        eos_token="<eos>",
        pad_token="<pad>",
        additional_special_tokens=["<user>", "<assistant>"],
        chat_template=TEMPLATE,
    )
    tokenizer.save_pretrained(folder)
    return folder


def encode(text: str) -> list[int]:
    """Ids of a text that is made of `WORDS`."""
    ids = []
    while text:
        word = max((word for word in WORDS if text.startswith(word)), key=len)
        ids.append(WORDS.index(word))
        text = text[len(word) :]
    return ids


def write_ift(path: Path, count: int) -> str:
    """Sums in two steps; every third solution has one step only, so lengths differ."""
    lines = []
    for number in range(count):
        a, b, c = 10 + number % 7, number % 9, (3 * number) % 10
        steps = [f"Step 1: {a} + {b} = {a + b}\n", f"Step 2: {a + b} + {c} = \\boxed{{{a + b + c}}}"]
        if number % 3 == 0:
            steps = [f"Step 1: {a} + {b} = \\boxed{{{a + b}}}"]
        lines.append(json.dumps({"problem": f"How much is {a} + {b} + {c}?", "steps": steps}) + "\n")
    path.write_text("".join(lines))
    return file_uri(path)


def write_eft(path: Path, count: int) -> str:
    """Judgements of a first step."""
    lines = []
    for number in range(count):
        a, b = 10 + number % 7, number % 9
        record = {
            "problem": f"How much is {a} + {b}?",
            "steps": [],
            "a": f"Step 1: {a} + {b} = {a + b}",
            "b": f"Step 1: {a} + {b} = {a + b + 1}",
            "judgement": f"{a + b}. [[A]]",
        }
        lines.append(json.dumps(record) + "\n")
    path.write_text("".join(lines))
    return file_uri(path)


def make_pairs(folder: Path, count: int) -> list[Pair]:
    """Pairs whose prompts, paths and steps differ in length; the last step of a problem ends in EOS."""
    digest = tokenizer_digest(folder)
    pairs = []
    for number in range(count):
        a, b, c = 10 + number % 7, number % 9, (3 * number) % 10
        level = 1 + number % 2
        prompt = f"<user>How much is {a} + {b}" + f" + {c}" * (number % 3) + "?<assistant>"
        path = [f"Step 1: {a} + {b} = {a + b}\n"] if level == 2 else []
        chosen = f"Step 1: {a} + {b} = {a + b}\n"
        if level == 2:
            chosen = f"Step 2: {b} + {c} = \\boxed{{{b + c}}}<eos>"
        rejected = f"Step {level}: {a} + {b} = {a + b + 1}" + (" + 0" * (number % 4)) + "\n"
        pairs.append(
            Pair(
                problem_id=f"p{number}",
                iteration=1,
                level=level,
                attempt=0,
                prompt_ids=encode(prompt),
                path_ids=[encode(step) for step in path],
                chosen_ids=encode(chosen),
                rejected_ids=encode(rejected),
                chosen_ended="eos" if level == 2 else "stop",
                rejected_ended="stop",
                scores=[3, 0],
                multiplicity=[1, 1],
                no_verdict=0,
                model_digest="sha256:0",
                tokenizer_digest=digest,
                template_digest="sha256:0",
                prompt=prompt,
                chosen=chosen,
                rejected=rejected,
            )
        )
    return pairs


def write_pairs(path: Path, pairs: list[Pair]) -> str:
    path.write_text("".join(pair.to_line() for pair in pairs))
    return file_uri(path)
