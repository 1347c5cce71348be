"""Tiny random models in the clothes of well-known families: their tokenizers, chat templates and architectures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors, trainers
from tokenizers.models import BPE
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

CORPUS = [
    "Let's think step by step. Step 1: Ann has 12 books and buys 35 more, so she has 12 + 35 = 47 books.\n",
    "Step 2: She gives away half of 46 books, which is 46 / 2 = 23 books.\nThe answer is \\boxed{23}.\n",
    "How many apples does each of the 7 children get if there are 91 apples in the basket?\n",
]
CHATML = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are a helpful assistant<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
INST = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content }}{{ eos_token }}"
    "{% else %}{{ raise_exception('only user and assistant') }}{% endif %}{% endfor %}"
)
QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def qwen2(folder: Path) -> None:
    """Qwen2: byte-level BPE that fuses a newline with the punctuation before it, ChatML, untied embeddings."""
    inner = Tokenizer(BPE())
    inner.normalizer = normalizers.NFC()
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    inner.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    _train(inner, special, initial=pre_tokenizers.ByteLevel.alphabet())
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=CHATML
    )
    _save(folder, tokenizer, Qwen2ForCausalLM, Qwen2Config, tied=False)


def llama(folder: Path) -> None:
    """Llama 2: BPE on SentencePiece's `▁` with byte fallback; a decoder that strips; `[INST]` without a system role."""
    inner = Tokenizer(BPE(unk_token="<unk>"))
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    _train(inner, ["<unk>", "<s>", "</s>"], initial=[])
    inner.model = _with_bytes(inner)
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>", chat_template=INST
    )
    _save(folder, tokenizer, LlamaForCausalLM, LlamaConfig, tied=False)


def smollm(folder: Path) -> None:
    """SmolLM: Llama's architecture with tied embeddings, byte-level BPE with single digits, ChatML."""
    inner = Tokenizer(BPE())
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    inner.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    _train(inner, special, initial=pre_tokenizers.ByteLevel.alphabet())
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        unk_token="<|endoftext|>",
        chat_template=CHATML,
    )
    _save(folder, tokenizer, LlamaForCausalLM, LlamaConfig, tied=True)


FLAVOURS: dict[str, Callable[[Path], None]] = {"qwen2": qwen2, "llama": llama, "smollm": smollm}


def _train(inner: Tokenizer, special: list[str], initial: list[str]) -> None:
    inner.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(vocab_size=700, special_tokens=special, initial_alphabet=initial, show_progress=False),
    )


def _with_bytes(inner: Tokenizer) -> BPE:
    """The trained vocabulary and a token for each byte, by which everything else is spelled."""
    trained = json.loads(inner.to_str())["model"]
    vocabulary: dict[str, int] = trained["vocab"]
    for byte in range(256):
        vocabulary[f"<0x{byte:02X}>"] = len(vocabulary)
    merges = [tuple(merge) for merge in trained["merges"]]
    return BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)


def _save(
    folder: Path,
    tokenizer: PreTrainedTokenizerFast,
    kind: type[PreTrainedModel],
    config: type[Qwen2Config] | type[LlamaConfig],
    *,
    tied: bool,
) -> None:
    torch.manual_seed(0)
    model = kind(
        config(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=2048,
            tie_word_embeddings=tied,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
