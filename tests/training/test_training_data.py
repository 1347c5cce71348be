"""Records as token sequences: what has loss and what does not, and what is refused at the door."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from psr_runtime.config import SFTStage, StepDPOStage
from psr_runtime.prompts.tokens import Tokenizer
from psr_runtime.protocol.errors import DataError
from psr_runtime.storage import Storage, file_uri
from psr_runtime.training.data import Limit, policy_pairs, sft_samples, solution_text
from psr_runtime.training.layouts.pairs import Pairs, PairSample
from tests.training.tiny_models import PROMPTS, encode, make_pairs, write_eft, write_ift, write_pairs

LIMIT = Limit(length=256, name="training.maxLength", vocabulary=29)


def sft_config(model: Path, **fields: object) -> SFTStage:
    return SFTStage.model_validate(
        {"output": "file:///out", "model": {"uri": file_uri(model)}, "prompts": PROMPTS, **fields}
    )


def test_a_solution_is_its_steps_and_the_token_that_ends_the_turn(qwen: Path, tmp_path: Path) -> None:
    record = {"problem": "How much is 1 + 2?", "steps": ["Step 1: 1 + 2 = 3", "Step 2: \\boxed{3}\n"]}
    (tmp_path / "ift.jsonl").write_text(json.dumps(record))
    config = sft_config(qwen, ift=file_uri(tmp_path / "ift.jsonl"))
    (sample,), eft = sft_samples(Storage(), config, Tokenizer(qwen), LIMIT)
    assert eft == []
    assert sample.prompt == encode("<user>How much is 1 + 2?<assistant>")
    assert sample.response == encode("Step 1: 1 + 2 = 3\nStep 2: \\boxed{3}<eos>")
    assert sample.ids == sample.prompt + sample.response


def test_a_judgement_follows_the_judge_prompt(qwen: Path, tmp_path: Path) -> None:
    record = {"problem": "How much is 1 + 2?", "a": "Step 1: 3\n", "b": "Step 1: 4", "judgement": "3. [[A]]"}
    (tmp_path / "eft.jsonl").write_text(json.dumps(record))
    config = sft_config(qwen, eft=file_uri(tmp_path / "eft.jsonl"))
    _, (sample,) = sft_samples(Storage(), config, Tokenizer(qwen), LIMIT)
    assert sample.prompt == encode("<user>How much is 1 + 2?\nA: Step 1: 3\nB: Step 1: 4\n<assistant>")
    assert sample.response == encode("3. [[A]]<eos>")


def test_steps_end_in_one_newline_each_but_the_last() -> None:
    assert solution_text(["Step 1: a\n\n", "Step 2: b", "Step 3: c \n"]) == "Step 1: a\nStep 2: b\nStep 3: c"


def test_the_end_of_a_turn_is_what_the_template_writes_not_the_end_of_a_document(qwen: Path) -> None:
    assert Tokenizer(qwen).eos_id == encode("<eos>")[0]
    chat = "{% for m in messages %}{{ m.content }}{% if m.role == 'assistant' %} <user>\n{% endif %}{% endfor %}"
    assert Tokenizer(qwen, chat).eos_id == encode("<user>")[0]
    plain = "{% for m in messages %}{{ m.content }}\n{% endfor %}"
    assert Tokenizer(qwen, plain).eos_id == encode("<eos>")[0]


def samples_of(config: StepDPOStage, tokenizer: Tokenizer) -> list[PairSample]:
    return Pairs(policy_pairs(Storage(), config, tokenizer), config.pairs, LIMIT).samples


def test_a_pair_is_trained_as_it_was_sampled(qwen: Path, tmp_path: Path) -> None:
    pairs = make_pairs(qwen, 2)
    uri = write_pairs(tmp_path / "pairs.jsonl", pairs)
    config = StepDPOStage.model_validate({"output": "file:///out", "model": {"uri": file_uri(qwen)}, "pairs": uri})
    first, second = samples_of(config, Tokenizer(qwen))
    assert first.chosen.prompt == first.rejected.prompt == pairs[0].prompt_ids
    assert second.chosen.prompt == pairs[1].prompt_ids + pairs[1].path_ids[0]
    assert (second.chosen.response, second.rejected.response) == (pairs[1].chosen_ids, pairs[1].rejected_ids)
    assert second.chosen.response[-1] == encode("<eos>")[0]  # sampled
    assert second.rejected.response[-1] == encode("\n")[0]  # not sampled, so not added


def test_a_sequence_that_is_too_long_is_named(
    qwen: Path, tmp_path: Path, stage: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    ift = write_ift(tmp_path / "ift.jsonl", 3)
    fields = {"model": {"uri": file_uri(qwen)}, "ift": ift, "prompts": PROMPTS}
    assert stage("sft", **fields, training={"maxLength": 30}) == 65
    assert f"{ift}, record 2: 34 tokens (prompt 10, response 24), more than training.maxLength of 30" in (
        capsys.readouterr().err
    )


def test_the_models_own_context_is_a_limit_too() -> None:
    assert Limit.of(4096, 256, 29) == Limit(256, "the model's context", 29)
    assert Limit.of(200, 256, 29) == Limit(200, "training.maxLength", 29)
    assert Limit.of(200, None, 29) == Limit(200, "training.maxLength", 29)


def test_pairs_of_another_tokenizer_are_refused(
    qwen: Path, tmp_path: Path, stage: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = make_pairs(qwen, 3)
    pairs[2] = pairs[2].model_copy(update={"tokenizer_digest": "sha256:foreign"})
    uri = write_pairs(tmp_path / "pairs.jsonl", pairs)
    assert stage("step-dpo", model={"uri": file_uri(qwen)}, pairs=uri) == 65
    error = capsys.readouterr().err
    assert f"{uri}, record 3: made with tokenizer sha256:foreign" in error
    assert Tokenizer(qwen).digest in error


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chosen_ids": []}, "record 1: prompt has 8 tokens, response 0"),
        ({"rejected_ids": [3, 29]}, "record 1: token id 29 where the model has 29 rows of embeddings"),
        ({"prompt_ids": [-1, 2]}, "record 1: token id -1 where"),
    ],
)
def test_pairs_that_no_model_could_read_are_refused(
    qwen: Path, tmp_path: Path, change: dict[str, list[int]], message: str
) -> None:
    pair = make_pairs(qwen, 1)[0].model_copy(update=change)
    uri = write_pairs(tmp_path / "pairs.jsonl", [pair])
    config = StepDPOStage.model_validate({"output": "file:///out", "model": {"uri": file_uri(qwen)}, "pairs": uri})
    with pytest.raises(DataError, match=message):
        samples_of(config, Tokenizer(qwen))


def test_records_of_both_skills_come_in_the_order_of_their_files(qwen: Path, tmp_path: Path) -> None:
    config = sft_config(qwen, ift=write_ift(tmp_path / "i", 5), eft=write_eft(tmp_path / "e", 4))
    ift, eft = sft_samples(Storage(), config, Tokenizer(qwen), LIMIT)
    assert [len(ift), len(eft)] == [5, 4]
    assert all(sample.response[-1] == encode("<eos>")[0] for sample in ift + eft)


@pytest.mark.parametrize(("name", "code"), [("gone", 66), ("truncated", 65), ("weightless", 66), ("lacking", 65)])
def test_a_model_that_is_missing_or_broken_is_named(
    qwen: Path,
    tmp_path: Path,
    stage: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    name: str,
    code: int,
) -> None:
    model = tmp_path / name
    if name != "gone":
        model.mkdir()
        for path in qwen.iterdir():
            (model / path.name).write_bytes(path.read_bytes())
        weights = model / "model.safetensors"
        if name == "truncated":
            weights.write_bytes(weights.read_bytes()[:-1000])
        elif name == "weightless":
            weights.unlink()
        else:
            _drop_one_tensor(weights)
    pairs = write_pairs(tmp_path / "pairs.jsonl", make_pairs(qwen, 2))
    assert stage("step-dpo", model={"uri": file_uri(model)}, pairs=pairs) == code
    assert name in capsys.readouterr().err
    assert not (tmp_path / "out" / "manifest.json").exists()


def _drop_one_tensor(path: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(path)
    del tensors["lm_head.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
