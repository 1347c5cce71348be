"""Preferences that are text become pairs of ids: under the model's template, cut between steps, with nothing added."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path

import pytest
from tokenizers import Tokenizer as Plain
from tokenizers import decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from psr_runtime.config import ModelSource, Prompts, StepDPOStage
from psr_runtime.data.records import Pair, Preference
from psr_runtime.data.tokenised import PairEncoder
from psr_runtime.prompts.templates import Templates
from psr_runtime.prompts.tokens import Tokenizer
from psr_runtime.storage import Storage, file_uri
from psr_runtime.training.data import policy_pairs

SPECIAL = ["<eos>", "<user>", "<assistant>"]
TEMPLATE = (
    "{% for m in messages %}{{ '<' + m.role + '>' + m.content }}{% if m.role == 'assistant' %}<eos>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
TEMPLATES = Templates.of(Prompts(solve="Solve: {problem}"))


def tokenizer(folder: Path, merges: list[tuple[str, str]]) -> Tokenizer:
    """A byte-level tokenizer in which these neighbours, and no others, are one token."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*SPECIAL, *letters, *(a + b for a, b in merges)]
    inner = Plain(models.BPE({word: number for number, word in enumerate(words)}, merges))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<eos>", additional_special_tokens=SPECIAL[1:], chat_template=TEMPLATE
    )
    fast.save_pretrained(folder)
    return Tokenizer(folder)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return tokenizer(tmp_path_factory.mktemp("plain"), [("S", "t"), (".", "Ċ")])


STEPS = Preference(problem="x?", steps=["Step 1: a.", "Step 2: b."], chosen="Step 3: ü.", rejected="Step 3: d.")


def test_a_pair_of_steps(plain: Tokenizer) -> None:
    encoder = PairEncoder(plain, TEMPLATES)
    pair = encoder.pair(STEPS, 7)
    assert pair.prompt_ids == plain.prompt_ids([{"role": "user", "content": "Solve: x?"}])
    assert plain.inner.decode(pair.prompt_ids) == "<user>Solve: x?<assistant>"
    assert [plain.decode(ids) for ids in pair.path_ids] == ["Step 1: a.\n", "Step 2: b.\n"]
    assert plain.decode(pair.chosen_ids) == "Step 3: ü.\n", "a step owns the line break after it"
    assert (pair.level, pair.problem_id, pair.tokenizer_digest) == (3, "p7", plain.digest)
    assert encoder.said() == ["1 preferences that are text were tokenised under the model's chat template"]


def test_the_ids_are_those_of_the_whole_text(plain: Tokenizer) -> None:
    pair = PairEncoder(plain, TEMPLATES).pair(STEPS, 1)
    before = list(chain(*pair.path_ids))
    assert before + pair.chosen_ids == plain.encode("Step 1: a.\nStep 2: b.\nStep 3: ü.\n")
    assert before + pair.rejected_ids == plain.encode("Step 1: a.\nStep 2: b.\nStep 3: d.\n")


def test_a_last_step_and_a_whole_answer_end_as_they_stand(plain: Tokenizer) -> None:
    """Nothing is added to them, and no token that ends a turn."""
    last = STEPS.model_copy(update={"chosen": "Step 3: \\boxed{1}\n", "rejected": "Step 3: the answer is 2"})
    pair = PairEncoder(plain, TEMPLATES).pair(last, 1)
    assert (plain.decode(pair.chosen_ids), plain.decode(pair.rejected_ids)) == (
        "Step 3: \\boxed{1}",
        "Step 3: the answer is 2",
    )
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "x?"}]
    pair = PairEncoder(plain, TEMPLATES).pair(Preference(messages=chat, chosen="2", rejected="3", whole=True), 1)
    assert plain.inner.decode(pair.prompt_ids) == "<system>Be brief.<user>x?<assistant>"
    assert (plain.decode(pair.chosen_ids), pair.level) == ("2", 1)
    assert not set(plain.eos_ids) & {*pair.chosen_ids, *pair.rejected_ids}


def test_a_token_across_a_border_is_not_made_and_is_counted(tmp_path: Path) -> None:
    joining = tokenizer(tmp_path, [("Ċ", "S")])
    encoder = PairEncoder(joining, TEMPLATES)
    pair = encoder.pair(STEPS, 1)
    encoder.pair(STEPS.model_copy(update={"steps": []}), 2)
    assert [joining.decode(ids) for ids in pair.path_ids] == ["Step 1: a.\n", "Step 2: b.\n"]
    assert joining.decode(pair.chosen_ids) == "Step 3: ü.\n"
    assert "in 1 of them a token would have joined two steps" in encoder.said()[1]


def test_the_stage_reads_text_and_ids_alike(
    plain: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Pairs that were imported before are those that the stage makes of the same file."""
    record = {
        "prompt": "x?",
        "initial_reason_steps": "Step 1: a.\nStep 2: ",
        "chosen": "b.",
        "rejected": "c.",
    }
    (tmp_path / "text.jsonl").write_text(json.dumps(record))
    stage = StepDPOStage(
        model=ModelSource(uri="file:///model"),
        pairs=file_uri(tmp_path / "text.jsonl"),
        prompts=Prompts(solve="Solve: {problem}"),
        output="file:///out",
    )
    pairs = policy_pairs(Storage(), stage, plain)
    assert [(pair.prompt, pair.chosen, pair.rejected) for pair in pairs] == [
        ("x?\nStep 1: a.", "Step 2: b.", "Step 2: c.")
    ]
    assert "text.jsonl: 1 preferences that are text were tokenised" in capsys.readouterr().err
    (tmp_path / "ids.jsonl").write_text("".join(pair.to_line() for pair in pairs))
    ids = stage.model_copy(update={"pairs": file_uri(tmp_path / "ids.jsonl")})
    assert policy_pairs(Storage(), ids, plain) == pairs
    assert isinstance(pairs[0], Pair)
