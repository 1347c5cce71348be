"""Where a step ends among sampled ids, for tokenizers that cut text differently."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Inner
from tokenizers import decoders, models, pre_tokenizers

from psr_runtime.prompts.grammar import cut_at_next_step
from psr_runtime.prompts.tokens import Tokenizer
from psr_runtime.protocol.errors import DataError
from tests.search.language import CHAT, encode, tokenizer_json

BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
MERGES = [(".", "Ċ"), ("S", "t"), ("St", "e"), ("Ste", "p"), ("Ċ", "St"), (".", "ĊSt")]
PIECES = [*BYTES, *("".join(merge) for merge in MERGES)]


def byte_level() -> Inner:
    """Byte-level BPE in which a newline fuses with the full stop before it, as Qwen's does, or with what follows."""
    inner = Inner(models.BPE({piece: number for number, piece in enumerate(PIECES)}, MERGES))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    return inner


BPE = byte_level()
"""Built once: hypothesis asks it thousands of times."""


def pieces(*wanted: str) -> list[int]:
    """Ids of exactly these pieces, spaces and newlines as they are written in text."""
    return [PIECES.index(piece.replace("\n", "Ċ").replace(" ", "Ġ")) for piece in wanted]


def decode(ids: Sequence[int]) -> str:
    text: str = BPE.decode(list(ids), skip_special_tokens=True)
    return text


def test_a_step_of_whole_words_is_cut_before_the_next_header(words: Tokenizer) -> None:
    ids = encode("Step 1: 2 + 1 = 3.\nStep 2: 3 + 1 = 4;\n")
    cut = cut_at_next_step(ids, words.decode, 1)
    assert cut == 3
    assert words.decode(ids[:cut]) == "Step 1: 2 + 1 = 3.\n"


def test_a_newline_that_fused_with_the_full_stop_belongs_to_the_step() -> None:
    ids = pieces("Step", " ", "1", ":", " ", "a", ".\n", "Step", " ", "2", ":", "x")
    assert cut_at_next_step(ids, decode, 1) == 7
    assert decode(ids[:7]) == "Step 1: a.\n"


def test_ids_need_not_be_those_that_the_tokenizer_would_choose() -> None:
    ids = pieces("S", "t", "e", "p", " ", "1", ":", " ", "a", ".", "\n", "St", "e", "p", " ", "2", ":")
    assert BPE.encode(decode(ids)).ids != ids
    assert cut_at_next_step(ids, decode, 1) == 11


def test_a_border_inside_a_token_is_no_border() -> None:
    for fused in ("\nSt", ".\nSt"):
        ids = pieces("Step", " ", "1", ":", "a", fused, "e", "p", " ", "2", ":")
        assert "\nStep 2:" in decode(ids)
        assert cut_at_next_step(ids, decode, 1) is None


def test_without_a_next_header_there_is_no_cut() -> None:
    assert cut_at_next_step(pieces("Step", " ", "1", ":", ".\n", "Step", " ", "3", ":"), decode, 1) is None
    assert cut_at_next_step([], decode, 1) is None


def smallest_cut(ids: Sequence[int], decode: Callable[[Sequence[int]], str], level: int) -> int | None:
    """The definition, tried out: the smallest k whose text ends in the newline before the next header."""
    text = decode(ids)
    if f"\nStep {level + 1}:" not in text:
        return None
    wanted = text[: text.index(f"\nStep {level + 1}:") + 1]
    return next((k for k in range(len(ids) + 1) if decode(ids[:k]) == wanted), None)


multibyte = st.sampled_from([BPE.encode(sign).ids for sign in ("é", "∑", "🙂")])
chunks = st.one_of(
    st.sampled_from([".\n", "\n", ".", "Step", " ", "1", "2", ":", "\nSt", ".\nSt", "ep", "a"]).map(
        lambda text: pieces(*([text] if text.replace("\n", "Ċ") in PIECES or text == " " else text))
    ),
    st.sampled_from([pieces("\n", "Step", " ", "2", ":"), pieces(".\n", "St", "e", "p", " ", "2", ":")]),
    multibyte,
    st.integers(0, len(PIECES) - 1).map(lambda token: [token]),
)


@given(st.lists(chunks, max_size=12))
def test_the_cut_is_the_smallest_that_fits(parts: list[list[int]]) -> None:
    ids = [token for part in parts for token in part]
    assert cut_at_next_step(ids, decode, 1) == smallest_cut(ids, decode, 1)


def test_a_tokenizer_without_a_chat_template_is_refused_unless_one_is_given(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer_json(["<end>", "<unknown>", "a"], special=2)))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<end>", "unk_token": "<unknown>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(DataError, match=r"no chat template; set model\.chatTemplate"):
        Tokenizer(tmp_path)
    assert Tokenizer(tmp_path, CHAT).eos_ids == [0]
