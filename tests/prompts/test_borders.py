"""Where a step ends among sampled ids, for tokenizers of every kind: no well-formed candidate is malformed."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Inner

from psr_runtime.engine import Completion
from psr_runtime.prompts.grammar import cut_at_next_step
from psr_runtime.prompts.tokens import Tokenizer
from psr_runtime.search.candidates import read_candidate
from tests.prompts.toys import INST, MERGES, byte_fallback, byte_level, load, unigram

END = "<|im_end|>"
KINDS = {
    "byte-level": byte_level([END], MERGES[:4]),
    "byte-fallback BPE": byte_fallback(("<unk>", "<s>", "</s>", END)),
    "byte-fallback Unigram": unigram(("<unk>", "<s>", "</s>", END)),
}
"""Built once: hypothesis asks them thousands of times."""
FUSING = {**KINDS, "fusing": byte_level([END])}


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    folder = tmp_path_factory.mktemp("kinds")
    return {name: load(folder / name, inner, INST, {"eos_token": END}) for name, inner in KINDS.items()}


def decode(inner: Inner, ids: Sequence[int]) -> str:
    text: str = inner.decode(list(ids), skip_special_tokens=True)
    return text


def smallest_cut(inner: Inner, ids: Sequence[int], level: int) -> int | None:
    """The definition, tried out: the smallest k whose text ends in the newline before the next header."""
    text = decode(inner, ids)
    if f"\nStep {level + 1}:" not in text:
        return None
    wanted = text[: text.index(f"\nStep {level + 1}:") + 1]
    return next((k for k in range(len(ids) + 1) if decode(inner, ids[:k]) == wanted), None)


PARTS = ["\nStep 2:", ".\n", "\n", "Step", " ", "a", "é", "∑", "🙂🙂", "数学题", "\ufffd", "▁", "<0x0A>", "  ", END]


@pytest.mark.parametrize("kind", FUSING)
@given(data=st.data())
def test_the_cut_is_the_smallest_that_fits(kind: str, data: st.DataObject) -> None:
    """Whatever ids there are: halves of characters, bytes that are none, tokens that no text is encoded to."""
    inner = FUSING[kind]
    encoded = st.sampled_from(PARTS).map(lambda text: inner.encode(text, add_special_tokens=False).ids)
    halved = encoded.map(lambda ids: ids[:-1])
    single = st.integers(0, inner.get_vocab_size() - 1).map(lambda token: [token])
    ids = [token for part in data.draw(st.lists(st.one_of(encoded, halved, single), max_size=12)) for token in part]
    assert cut_at_next_step(ids, lambda part: decode(inner, part), 1) == smallest_cut(inner, ids, 1)


@pytest.mark.parametrize("kind", KINDS)
@given(
    said=st.text(st.characters(codec="utf-8", exclude_characters="\r"), min_size=1), rest=st.sampled_from(PARTS[:-1])
)
def test_a_well_formed_candidate_is_never_malformed(
    tokenizers: dict[str, Tokenizer], kind: str, said: str, rest: str
) -> None:
    """A step of any characters, most of them outside the vocabulary, sampled on into the next step."""
    tokenizer = tokenizers[kind]
    step = f"Step 1: {said}"
    if not step.strip().startswith("Step 1: ") or "\nStep 2:" in step or END in step:
        return
    ids = tokenizer.inner.encode(f"{step}\nStep 2: {rest}", add_special_tokens=False)
    for tail in range(3):  # an engine stops in the header or some tokens behind it, in the middle of a character too
        sampled = ids[: _stopped(tokenizer, ids) + tail]
        candidate = read_candidate(Completion(sampled, "stop"), tokenizer, 1, context_full=False)
        assert candidate.fault is None
        assert candidate.ids == ids[: len(candidate.ids)]
        assert tokenizer.decode(candidate.ids) == f"{step}\n"
        assert candidate.text == step.rstrip()


def _stopped(tokenizer: Tokenizer, ids: Sequence[int]) -> int:
    """How many ids an engine samples until its text holds the next header."""
    return next(k for k in range(len(ids) + 1) if "\nStep 2:" in tokenizer.decode(ids[:k]))


@pytest.mark.parametrize("kind", KINDS)
def test_every_step_of_a_solution_is_cut_where_it_ends(tokenizers: dict[str, Tokenizer], kind: str) -> None:
    tokenizer = tokenizers[kind]
    steps = ["Step 1: 设 ∑ = 5。\n", "Step 2: 🙂 ⇒ x² = 4\n", "Step 3: √4 = 2 ✓\n", "Step 4: \\boxed{2}"]
    ids = tokenizer.inner.encode("".join(steps), add_special_tokens=False)
    cuts = []
    for level, _ in enumerate(steps[:-1], 1):
        cut = cut_at_next_step(ids, tokenizer.decode, level)
        assert cut is not None
        cuts.append(tokenizer.decode(ids[:cut]))
        ids = ids[cut:]
    assert [*cuts, tokenizer.decode(ids)] == steps


def test_a_long_step_is_cut_with_few_looks(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["byte-fallback BPE"]
    ids = tokenizer.inner.encode("Step 1: " + "数" * 300 + "\nStep 2:", add_special_tokens=False)
    looks = 0

    def counted(part: Sequence[int]) -> str:
        nonlocal looks
        looks += 1
        return tokenizer.decode(part)

    assert tokenizer.decode(ids[: cut_at_next_step(ids, counted, 1)]).endswith("数\n")
    assert looks < 20
