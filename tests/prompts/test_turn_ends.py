"""Which tokens end a turn: the template's, the tokenizer's and generation_config's together, for every stage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from psr_runtime.config import SFTStage
from psr_runtime.engine import Completion
from psr_runtime.prompts.tokens import Tokenizer
from psr_runtime.protocol.errors import DataError
from psr_runtime.search.candidates import read_candidate
from psr_runtime.storage import Storage, file_uri
from psr_runtime.training.checkpoint import _generation_defaults
from psr_runtime.training.data import Limit, sft_samples
from tests.prompts.toys import CHATML, INST, byte_fallback, byte_level, load, write_tokenizer

SPECIAL = ["<|im_end|>", "<|endoftext|>", "<|im_start|>", "<|pad|>"]
"""The turn's end is token 0."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A base model: its EOS ends documents, its template ends turns with token 0."""
    folder = tmp_path_factory.mktemp("base")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 3]}))
    return load(folder, byte_level(SPECIAL), names={"eos_token": "<|endoftext|>", "pad_token": "<|im_end|>"})


def test_the_template_the_tokenizer_and_the_generation_config_are_heard_together(base: Tokenizer) -> None:
    assert base.eos_ids == [0, 1, 3]
    assert base.eos_id == 0


def test_a_step_that_ends_the_turn_of_a_base_model_is_final_and_not_malformed(base: Tokenizer) -> None:
    for end in base.eos_ids:
        ids = [*base.encode("Step 1: it is 4"), end]
        candidate = read_candidate(Completion(ids, "stop"), base, 1, context_full=False)
        assert (candidate.fault, candidate.ended, candidate.final) == (None, "eos", True)
        assert (candidate.ids, candidate.text) == (ids, "Step 1: it is 4")


def test_fine_tuning_teaches_the_end_of_the_turn(base: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "ift.jsonl").write_text(json.dumps({"problem": "2 + 2?", "steps": ["Step 1: 4"]}))
    config = SFTStage.model_validate(
        {"output": "file:///out", "model": {"uri": "file:///m"}, "ift": file_uri(tmp_path / "ift.jsonl")}
    )
    (sample,), _ = sft_samples(Storage(), config, base, Limit(4096, "training.maxLength", 1000))
    assert sample.response == [*base.encode("Step 1: 4"), 0]


def test_a_configuration_that_names_token_0_keeps_it(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": 0, "pad_token_id": 0, "bos_token_id": None}))
    assert _generation_defaults(tmp_path) == {"eos_token_id": 0, "pad_token_id": 0}
    tokenizer = load(tmp_path, byte_level(SPECIAL), "{{ messages[-1].content }}")
    assert tokenizer.eos_ids == [0]


@pytest.mark.parametrize(
    ("template", "ends"),
    [
        (CHATML, [0, 1]),
        ("{% for m in messages %}{{ m.content }} <|im_end|>{% endfor %}<|endoftext|>", [0, 1]),  # spaces before
        ("{% for m in messages %}{{ m.content }}\n{% endfor %}", [1]),  # puts nothing
        ("{% for m in messages %}{{ m.content | upper }}<|im_end|>{% endfor %}", [1]),  # changes the message
        (
            "{% if messages | length > 1 %}{{ raise_exception('one at a time') }}{% endif %}{{ messages[0].content }}",
            [1],
        ),
    ],
    ids=["ChatML", "a space before the end", "no end", "another text", "no assistant"],
)
def test_a_template_that_says_nothing_leaves_it_to_the_tokenizer(
    tmp_path: Path, template: str, ends: list[int]
) -> None:
    assert load(tmp_path, byte_level(SPECIAL), template, {"eos_token": "<|endoftext|>"}).eos_ids == ends


def test_a_byte_fallback_tokenizer_ends_turns_with_its_eos(tmp_path: Path) -> None:
    assert load(tmp_path, byte_fallback(), INST, {"eos_token": "</s>"}).eos_ids == [2]


def test_without_any_end_the_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"names a token that ends a turn; set eos_token in tokenizer_config\.json"):
        load(tmp_path, byte_level(SPECIAL), "{{ messages[0].content }}")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", b'{"version": "1.0", "mod', r"cannot be read \(.*fetch tokenizer\.json"),
        ("tokenizer.json", b'{"version": "1.0", "model": {"type": "Newer"}}', r"cannot be read \(.*fetch tokenizer"),
        ("tokenizer_config.json", b"[]", r"cannot be read \(.*fetch tokenizer"),
        ("tokenizer_config.json", b"{", r"cannot be read \(.*fetch tokenizer"),
        ("generation_config.json", b"{", r"generation_config\.json: not a JSON object \(.*fetch the file again"),
        ("generation_config.json", b"[0]", r"generation_config\.json: not a JSON object \(.*fetch the file again"),
        ("generation_config.json", b'{"eos_token_id": "</s>"}', r"generation_config\.json: eos_token_id is \['</s>'\]"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_what_to_do(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    write_tokenizer(tmp_path, byte_level(SPECIAL), eos_token="<|endoftext|>")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        Tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"tokenizer.model": b"\x0a\x03no", "tokenizer_config.json": b'{"tokenizer_class": "LlamaTokenizer"}'}, "json"),
        ({"vocab.json": b"{}", "tokenizer_config.json": b'{"tokenizer_class": "NobodysTokenizer"}'}, "json"),
        ({"vocab.json": b"{}", "config.json": b'{"model_type": "nobodys"}'}, "json"),
    ],
    ids=["sentencepiece", "a class that is not there", "a model that is not there"],
)
def test_a_tokenizer_that_no_class_here_reads_is_refused(tmp_path: Path, files: dict[str, bytes], message: str) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"cannot be read \(.*give the folder a tokenizer\.{message}"):
        Tokenizer(tmp_path, CHATML)
