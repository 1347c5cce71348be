"""Small tokenizers of every kind that real models have, made here: nothing is fetched, nothing is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Inner
from transformers import PreTrainedTokenizerFast

from psr_runtime.prompts.tokens import Tokenizer

BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
MERGES = [(".", "Ċ"), ("S", "t"), ("St", "e"), ("Ste", "p"), ("Ċ", "St"), (".", "ĊSt")]
PLAIN = [" ", *"0123456789+-=()[]{}<>|/\\.,:;?!'", *"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_"]
"""What the byte-fallback tokenizers have a piece for; everything else is spelled in bytes, a newline first of all."""
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
INST = "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %} {{ m.content }}</s>"
INST += "{% endif %}{% endfor %}"


def byte_level(special: Sequence[str] = (), merges: Sequence[tuple[str, str]] = MERGES) -> Inner:
    """Byte-level BPE, as of Qwen and Llama 3: a newline fuses with the full stop before it, or with what follows."""
    pieces = [*special, *BYTES, *("".join(merge) for merge in merges)]
    inner = Inner(models.BPE({piece: number for number, piece in enumerate(pieces)}, list(merges)))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([AddedToken(item, special=True, normalized=False) for item in special])
    return inner


def byte_fallback(special: Sequence[str] = ("<unk>", "<s>", "</s>")) -> Inner:
    """BPE on `▁` with byte fallback and a decoder that strips one space, as of Llama 2, Mistral, Phi-3 and Yi."""
    pieces = _pieces(special)
    merges = [("S", "t"), ("St", "e"), ("Ste", "p"), ("▁", "Step")]
    inner = Inner(models.BPE({item: n for n, item in enumerate(pieces)}, merges, unk_token="<unk>", byte_fallback=True))
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    inner.add_special_tokens([AddedToken(item, special=True, normalized=False) for item in special])
    return inner


def unigram(special: Sequence[str] = ("<unk>", "<s>", "</s>")) -> Inner:
    """Unigram with Metaspace and byte fallback, as sentencepiece makes it; special tokens are pieces of its model."""
    pieces = [(item, 0.0 if item in special else -8.0 + 2 * (len(item) > 1)) for item in _pieces(special)]
    inner = Inner(models.Unigram(pieces, unk_id=0, byte_fallback=True))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    inner.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="always", split=False)]
    )
    inner.add_special_tokens([AddedToken(item, special=True, normalized=False) for item in special])
    return inner


def word_pieces() -> Inner:
    """WordPiece, as of BERT: what is between words is lost."""
    words = ["[UNK]", "[SEP]", "Step", "1", "2", ":", "##:"]
    inner = Inner(models.WordPiece({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece()
    return inner


def _pieces(special: Sequence[str]) -> list[str]:
    letters = [item.replace(" ", "▁") for item in PLAIN]
    return [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *letters, "St", "Ste", "Step", "▁Step"]


def write_tokenizer(folder: Path, inner: Inner, chat_template: str = CHATML, **names: Any) -> Path:
    """A folder with a tokenizer and nothing else; `names` are those of transformers (`eos_token` and the like)."""
    PreTrainedTokenizerFast(tokenizer_object=inner, chat_template=chat_template, **names).save_pretrained(folder)
    return folder


def load(
    folder: Path, inner: Inner, chat_template: str = CHATML, names: Mapping[str, Any] | None = None, **how: Any
) -> Tokenizer:
    """The tokenizer as the stages load it."""
    return Tokenizer(write_tokenizer(folder, inner, chat_template, **(names or {})), **how)
