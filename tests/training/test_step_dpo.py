"""Step-DPO by value: eqs. 6-8, the reference, the optional NLL term, small learning rates."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from psr_runtime.artefacts.checkpoints import fetch_model
from psr_runtime.data.records import Pair
from psr_runtime.storage import Storage, file_uri
from psr_runtime.training.weights import load_model
from tests.training.tiny_models import PROMPTS, make_pairs, write_eft, write_ift, write_pairs

PAIRS = 20


@pytest.fixture
def fields(qwen: Path, tmp_path: Path) -> dict[str, Any]:
    """A training on 20 pairs."""
    uri = write_pairs(tmp_path / "pairs.jsonl", make_pairs(qwen, PAIRS))
    return {"model": {"uri": file_uri(qwen)}, "pairs": uri}


def result_of(folder: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((folder / "manifest.json").read_text())["result"]
    return result


def plain_logprob(model: Any, pair: Pair, response: list[int]) -> torch.Tensor:
    """Paper eq. 6: the sum of log-probabilities of a step after prompt and path."""
    prompt = [*pair.prompt_ids, *chain(*pair.path_ids)]
    ids = torch.tensor([prompt + response])
    logprobs = model(input_ids=ids).logits[0].log_softmax(-1)
    return torch.stack([logprobs[at - 1, ids[0, at]] for at in range(len(prompt), ids.shape[1])]).sum()


def plain_step_dpo(policy: Path, reference: Path, pairs: list[Pair], beta: float, nll: float) -> float:
    """Paper eqs. 7-8 in float64, one sequence at a time."""
    new, old = load_model(policy).double(), load_model(reference).double()
    total = 0.0
    with torch.no_grad():
        for pair in pairs:
            chosen, rejected = (plain_logprob(new, pair, ids) for ids in (pair.chosen_ids, pair.rejected_ids))
            ratio = chosen - plain_logprob(old, pair, pair.chosen_ids)
            ratio = ratio - (rejected - plain_logprob(old, pair, pair.rejected_ids))
            total += float(-torch.nn.functional.logsigmoid(beta * ratio) - nll * chosen / len(pair.chosen_ids))
    return total / len(pairs)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_with_the_policy_as_reference_the_first_loss_is_ln_2(
    qwen: Path,
    fields: dict[str, Any],
    stage: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    precision: str,
) -> None:
    rows: list[int] = []
    count_rows_of_head(monkeypatch, rows)
    settings = {"globalBatch": 8, "microBatch": 3, "learningRate": 1e-3, "precision": precision}
    assert stage("step-dpo", **fields, training=settings) == 0
    result = result_of(tmp_path / "out")
    assert result["loss_first"] == pytest.approx(0.6931471805599453, abs=1e-6)

    scored = sum(len(pair.chosen_ids) + len(pair.rejected_ids) for pair in make_pairs(qwen, PAIRS))
    assert result["scored_tokens"] == scored
    probes = 2 * 32  # sequences of the round under the new model and under its parent, at the end
    assert sum(rows[:-probes]) == 3 * scored  # each step once before, once in and once after training


def count_rows_of_head(monkeypatch: pytest.MonkeyPatch, rows: list[int]) -> None:
    """Note how many hidden states reach the language-model head in each pass."""
    from transformers import Qwen2ForCausalLM

    plain = Qwen2ForCausalLM.__init__

    def counting(self: Any, *args: Any, **kwargs: Any) -> None:
        plain(self, *args, **kwargs)
        self.lm_head.register_forward_hook(lambda _, __, logits: rows.append(logits.shape[0]))

    monkeypatch.setattr(Qwen2ForCausalLM, "__init__", counting)


@pytest.mark.parametrize(("beta", "nll"), [(0.1, 0.0), (0.5, 0.3)])
def test_with_another_reference_the_loss_is_that_of_float64(
    qwen: Path,
    other_qwen: Path,
    fields: dict[str, Any],
    stage: Callable[..., int],
    tmp_path: Path,
    beta: float,
    nll: float,
) -> None:
    settings = {"globalBatch": PAIRS, "precision": "float32", "beta": beta, "nllWeight": nll}
    assert stage("step-dpo", **fields, reference={"uri": file_uri(other_qwen)}, training=settings) == 0
    wanted = plain_step_dpo(qwen, other_qwen, make_pairs(qwen, PAIRS), beta, nll)
    assert result_of(tmp_path / "out")["loss_first"] == pytest.approx(wanted, rel=1e-5)


def test_training_prefers_the_chosen_steps_and_reports_it(
    qwen: Path, fields: dict[str, Any], stage: Callable[..., int], tmp_path: Path
) -> None:
    settings = {"learningRate": 3e-3, "epochs": 4, "globalBatch": 8, "precision": "float32", "beta": 0.2}
    assert stage("step-dpo", **fields, training=settings) == 0
    result = result_of(tmp_path / "out")
    assert result["preference_accuracy"] == 1
    assert (result["updates"], result["pairs"]) == (12, PAIRS)

    pairs = make_pairs(qwen, PAIRS)
    new, old = load_model(tmp_path / "out" / "master"), load_model(qwen)
    with torch.no_grad():
        change = {
            side: sum(
                float(plain_logprob(new, pair, getattr(pair, side)) - plain_logprob(old, pair, getattr(pair, side)))
                for pair in pairs
            )
            / PAIRS
            for side in ("chosen_ids", "rejected_ids")
        }
    assert result["chosen_logprob_change"] == pytest.approx(change["chosen_ids"], abs=1e-4)
    assert result["rejected_logprob_change"] == pytest.approx(change["rejected_ids"], abs=1e-4)
    assert result["mean_margin"] == pytest.approx(0.2 * (change["chosen_ids"] - change["rejected_ids"]), abs=1e-4)
    assert result["mean_chosen_tokens"] == sum(len(pair.chosen_ids) for pair in pairs) / PAIRS
    assert result["mean_rejected_tokens"] == sum(len(pair.rejected_ids) for pair in pairs) / PAIRS


def test_one_update_at_the_papers_learning_rate_changes_the_master_weights(
    qwen: Path, fields: dict[str, Any], stage: Callable[..., int], tmp_path: Path
) -> None:
    """Paper §4: 5e-7. Under bfloat16 autocast, from a model whose weights bfloat16 could hold."""
    model = load_model(qwen)
    model.to(torch.bfloat16).save_pretrained(tmp_path / "bf16")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (tmp_path / "bf16" / name).write_bytes((qwen / name).read_bytes())
    fields["model"] = {"uri": file_uri(tmp_path / "bf16")}
    assert stage("step-dpo", **fields) == 0  # one update of up to 32 pairs at 5e-7 is the default

    before = load_file(tmp_path / "bf16" / "model.safetensors")
    after = load_file(tmp_path / "out" / "master" / "model.safetensors")
    moved = [int((tensor.float() != after[name]).sum()) for name, tensor in before.items()]
    assert all(moved)
    assert sum(moved) > 0.5 * sum(tensor.numel() for tensor in before.values())
    largest = max(float((tensor.float() - after[name]).abs().max()) for name, tensor in before.items())
    assert largest <= 5.1e-7
    result = result_of(tmp_path / "out")
    assert result["updates"] == 1
    assert result["changed_bf16_weights"] < 0.05 * sum(moved)


def test_llama_with_tied_embeddings_goes_through_sft_and_step_dpo(
    llama: Path, stage: Callable[..., int], tmp_path: Path
) -> None:
    data = {"ift": write_ift(tmp_path / "ift.jsonl", 8), "eft": write_eft(tmp_path / "eft.jsonl", 8)}
    settings = {"learningRate": 1e-3, "epochs": 1}
    assert stage("sft", "m1", model={"uri": file_uri(llama)}, **data, prompts=PROMPTS, training=settings) == 0
    pairs = write_pairs(tmp_path / "pairs.jsonl", make_pairs(llama, 8))
    m1 = {"uri": file_uri(tmp_path / "m1")}
    assert stage("step-dpo", "m2", model=m1, pairs=pairs, training={"learningRate": 1e-3}) == 0
    for name in ("m1", "m2"):
        assert json.loads((tmp_path / name / "manifest.json").read_text())["metadata"]["tied"] is True
        for part in ("master", "serving"):
            assert "lm_head.weight" not in load_file(tmp_path / name / part / "model.safetensors")
    assert json.loads((tmp_path / "m2" / "master" / "config.json").read_text()) == json.loads(
        (tmp_path / "m1" / "master" / "config.json").read_text()
    )


def test_the_next_round_starts_from_the_master_weights(
    qwen: Path, fields: dict[str, Any], stage: Callable[..., int], tmp_path: Path
) -> None:
    from psr_runtime.config import ModelSource

    settings = {"learningRate": 1e-4, "precision": "float32"}
    assert stage("step-dpo", "m2", **fields, training=settings) == 0
    m2 = ModelSource(uri=file_uri(tmp_path / "m2"))
    assert fetch_model(Storage(), m2, tmp_path / "x", "training").folder == tmp_path / "m2" / "master"
    fields["model"] = {"uri": m2.uri}
    assert stage("step-dpo", "m3", **fields, reference={"uri": file_uri(qwen)}, training=settings) == 0
    wanted = plain_step_dpo(tmp_path / "m2" / "master", qwen, make_pairs(qwen, PAIRS), 0.1, 0.0)
    assert result_of(tmp_path / "m3")["loss_first"] == pytest.approx(wanted, rel=1e-5)


def test_a_reference_with_another_tokenizer_is_refused(
    other_qwen: Path,
    fields: dict[str, Any],
    stage: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for path in other_qwen.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    tokenizer = json.loads((other_qwen / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["9"], tokenizer["model"]["vocab"]["8"] = 27, 28
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert stage("step-dpo", **fields, reference={"uri": file_uri(tmp_path)}) == 65
    assert f"{file_uri(tmp_path)}: the reference's tokenizer is sha256:" in capsys.readouterr().err


def test_a_policy_without_weights_is_refused(
    qwen: Path, fields: dict[str, Any], stage: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    fields["model"]["weights"] = "Random"
    assert stage("step-dpo", **fields) == 64
    assert "model.weights: step-DPO trains a model that has weights" in capsys.readouterr().err
