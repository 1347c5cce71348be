"""SFT by value: where the loss is, how it is averaged, what a checkpoint holds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, TrainingArguments

from psr_runtime.artefacts.checkpoints import fetch_model, fetch_tokenizer
from psr_runtime.artefacts.fingerprint import Fingerprint
from psr_runtime.config import OptimizerConfig, SFTStage
from psr_runtime.prompts.tokens import Tokenizer
from psr_runtime.storage import Storage, file_uri
from psr_runtime.training.data import Limit, Sample, sft_samples
from psr_runtime.training.likelihood import response_logprobs
from psr_runtime.training.update_trainer import UpdateTrainer
from psr_runtime.training.updates import Updates
from psr_runtime.training.weights import load_model
from tests.training.tiny_models import PROMPTS, write_eft, write_ift

CALM = {"precision": "float32", "learningRate": 1e-3, "epochs": 1}


@pytest.fixture
def fields(qwen: Path, tmp_path: Path) -> dict[str, Any]:
    """A fine-tuning on 12 solutions and 8 judgements."""
    return {
        "model": {"uri": file_uri(qwen)},
        "ift": write_ift(tmp_path / "ift.jsonl", 12),
        "eft": write_eft(tmp_path / "eft.jsonl", 8),
        "prompts": PROMPTS,
    }


def samples_of(fields: dict[str, Any], folder: Path) -> list[Sample]:
    config = SFTStage.model_validate({"output": "file:///out", **fields})
    ift, eft = sft_samples(Storage(), config, Tokenizer(folder), Limit(256, "maxLength", 29))
    return ift + eft


def plain_loss(model: Any, samples: list[Sample]) -> torch.Tensor:
    """Cross-entropy of every response token over their number, one unpadded sequence after the other."""
    total = torch.zeros(())
    for sample in samples:
        logits = model(input_ids=torch.tensor([sample.ids])).logits[0]
        for at in range(len(sample.prompt), len(sample)):
            total = total - logits[at - 1].log_softmax(-1)[sample.ids[at]]
    return total / sum(len(sample.response) for sample in samples)


@pytest.mark.parametrize("micro_batch", [1, 2, 8])
def test_an_update_is_the_mean_over_response_tokens_however_it_is_cut(
    qwen: Path, fields: dict[str, Any], tmp_path: Path, micro_batch: int
) -> None:
    samples = samples_of(fields, qwen)
    by_hand = load_model(qwen)
    wanted = plain_loss(by_hand, samples)
    wanted.backward()

    updates = Updates(
        [len(sample) for sample in samples],
        [len(sample.response) for sample in samples],
        epochs=1,
        global_batch=len(samples),
        micro_batch=micro_batch,
        seed=0,
    )
    trainer = UpdateTrainer(
        model=load_model(qwen),
        args=TrainingArguments(str(tmp_path), report_to="none", use_cpu=True),
        train_dataset=updates,
        loss=lambda model, records: -response_logprobs(model, [samples[r] for r in records], "float32").sum(),
        optimizer_config=OptimizerConfig(),
    )
    loss = trainer.training_step(trainer.model, updates[0])

    assert loss.item() == pytest.approx(wanted.item(), rel=1e-6)
    gradients = dict(trainer.model.named_parameters())
    for name, parameter in by_hand.named_parameters():
        torch.testing.assert_close(gradients[name].grad, parameter.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_the_stage_reports_that_loss_and_counts_its_tokens(
    qwen: Path, fields: dict[str, Any], stage: Callable[..., int], tmp_path: Path
) -> None:
    assert stage("sft", **fields, training={**CALM, "globalBatch": 20}) == 0
    samples = samples_of(fields, qwen)
    result = json.loads((tmp_path / "out" / "manifest.json").read_text())["result"]
    assert result["loss_first"] == pytest.approx(plain_loss(load_model(qwen), samples).item(), rel=1e-6)
    assert (result["updates"], result["records"], result["ift"], result["eft"]) == (1, 20, 12, 8)
    assert result["response_tokens"] == sum(len(sample.response) for sample in samples)
    assert result["tokens"] == sum(len(sample) for sample in samples)


def test_training_lowers_the_loss_in_bfloat16_too(
    fields: dict[str, Any], stage: Callable[..., int], tmp_path: Path
) -> None:
    settings = {"learningRate": 1e-2, "epochs": 6, "globalBatch": 8, "precision": "bfloat16"}
    assert stage("sft", **fields, training=settings) == 0
    lines = [json.loads(line) for line in (tmp_path / "out" / "updates.jsonl").read_text().splitlines()]
    assert [line["update"] for line in lines] == list(range(1, 19))
    assert lines[-1]["loss"] < 0.5 * lines[0]["loss"]
    assert 0 < lines[-1]["learning_rate"] < 1e-3 < lines[8]["learning_rate"]


def test_a_checkpoint_is_master_weights_and_a_serving_copy(
    qwen: Path, fields: dict[str, Any], stage: Callable[..., int], tmp_path: Path
) -> None:
    assert stage("sft", **fields, training=CALM) == 0
    out = tmp_path / "out"
    metadata = json.loads((out / "manifest.json").read_text())["metadata"]
    assert metadata["layout"] == {"training": "master", "serving": "serving"}
    assert (metadata["tied"], metadata["serving_dtype"]) == (False, "bfloat16")
    assert metadata["tokenizer_digest"] == Tokenizer(qwen).digest

    before = load_file(qwen / "model.safetensors")
    master, serving = (load_file(out / part / "model.safetensors") for part in ("master", "serving"))
    assert {tensor.dtype for tensor in master.values()} == {torch.float32}
    assert all(torch.equal(serving[name], tensor.bfloat16()) for name, tensor in master.items())
    changed = sum(int((serving[name] != tensor.bfloat16()).sum()) for name, tensor in before.items())
    assert metadata["changed_bf16_weights"] == changed > 0
    assert metadata["parameters"] == sum(tensor.numel() for tensor in before.values())

    source = SFTStage.model_validate({"output": "file:///o", **fields, "model": {"uri": file_uri(out)}}).model
    for part in ("training", "serving"):
        local = fetch_model(Storage(), source, tmp_path / part, part)
        assert Tokenizer(local.folder).template_digest == metadata["template_digest"]
        assert AutoModelForCausalLM.from_pretrained(local.folder).config.use_cache
    assert fetch_tokenizer(Storage(), source, tmp_path).digest == metadata["tokenizer_digest"]


def test_a_float32_checkpoint_is_written_once(
    fields: dict[str, Any], stage: Callable[..., int], tmp_path: Path
) -> None:
    assert stage("sft", **fields, training={**CALM, "checkpointDtype": "float32"}) == 0
    metadata = json.loads((tmp_path / "out" / "manifest.json").read_text())["metadata"]
    assert metadata["layout"] == {"training": "master", "serving": "master"}
    assert not (tmp_path / "out" / "serving").exists()
    assert Fingerprint.model_validate_json((tmp_path / "out" / "fingerprint.json").read_text()).dtype == "float32"


def test_the_fingerprint_is_what_the_serving_weights_say(
    qwen: Path, fields: dict[str, Any], stage: Callable[..., int], tmp_path: Path
) -> None:
    assert stage("sft", **fields, training=CALM) == 0
    fingerprint = Fingerprint.model_validate_json((tmp_path / "out" / "fingerprint.json").read_text())
    assert (fingerprint.dtype, len(fingerprint.probes)) == ("bfloat16", 8)
    served = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "serving", dtype=torch.bfloat16).float()
    parent = AutoModelForCausalLM.from_pretrained(qwen, dtype=torch.bfloat16).float()
    sequences = {tuple(sample.ids) for sample in samples_of(fields, qwen)}
    for probe in fingerprint.probes:
        assert tuple(probe.ids) in sequences
        for model, said in ((served, probe.new), (parent, probe.parent)):
            logits = model(input_ids=torch.tensor([probe.ids])).logits[0, :-1]
            wanted = logits.log_softmax(-1).gather(1, torch.tensor(probe.ids[1:])[:, None])[:, 0]
            torch.testing.assert_close(torch.tensor(said), wanted.detach(), atol=2e-5, rtol=0)


def test_fresh_weights_come_from_the_seed(
    qwen: Path, fields: dict[str, Any], stage: Callable[..., int], tmp_path: Path
) -> None:
    base = tmp_path / "base"
    base.mkdir()
    for path in qwen.iterdir():
        if path.suffix != ".safetensors":
            (base / path.name).write_bytes(path.read_bytes())
    fields["model"] = {"uri": file_uri(base), "weights": "Random"}
    for output, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert stage("sft", output, **fields, training=CALM, seed=seed) == 0
    a, b, c = ((tmp_path / name / "master" / "model.safetensors").read_bytes() for name in "abc")
    assert a == b != c
    probes = Fingerprint.model_validate_json((tmp_path / "a" / "fingerprint.json").read_text()).probes
    assert [probe.parent for probe in probes] == [None] * 8
    assert json.loads((tmp_path / "a" / "manifest.json").read_text())["metadata"]["changed_bf16_weights"] is None


def test_a_base_model_learns_to_end_turns_and_says_so_everywhere(
    qwen: Path, fields: dict[str, Any], stage: Callable[..., int], tmp_path: Path
) -> None:
    """As with Qwen2.5's base models: the template ends a turn with another token than the one called EOS."""
    chat = "{% for m in messages %}{{ m.content }}{% if m.role == 'assistant' %}<user>\n{% endif %}{% endfor %}"
    fields["model"]["chatTemplate"] = chat
    assert stage("sft", **fields, training=CALM) == 0
    for part in ("master", "serving"):
        folder = tmp_path / "out" / part
        for name in ("config.json", "generation_config.json"):
            assert json.loads((folder / name).read_text())["eos_token_id"] == [2, 1], name
        tokenizer = Tokenizer(folder)
        assert tokenizer.inner.chat_template == chat
        assert set(tokenizer.eos_ids) == {1, 2}


def test_a_training_that_diverges_names_the_update(
    fields: dict[str, Any],
    stage: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The third update's loss is made infinite."""
    calls: list[int] = []

    def overflowing(model: Any, samples: list[Sample], precision: str) -> torch.Tensor:
        calls.append(len(samples))
        return response_logprobs(model, samples, precision) * (float("inf") if len(calls) == 3 else 1)

    monkeypatch.setattr("psr_runtime.training.objectives.sft.response_logprobs", overflowing)
    assert stage("sft", **fields, training={**CALM, "globalBatch": 4}) == 64
    assert "update 3: loss inf" in (error := capsys.readouterr().err)
    assert "lower training.learningRate" in error
