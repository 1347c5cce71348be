"""Step-DPO beside TRL's: the same loss and gradients on the same token ids, and what TRL would do to the ids."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
import trl
from transformers import PreTrainedTokenizerFast

from psr_runtime.config import StepDPOConfig
from psr_runtime.training.data import Limit
from psr_runtime.training.layouts.pairs import Pairs
from psr_runtime.training.likelihood import response_logprobs, sums
from psr_runtime.training.objectives.step_dpo import StepDPOLoss
from psr_runtime.training.weights import load_model
from tests.training.tiny_models import encode, make_pairs

PAIRS = 16
BETA = 0.3


class TokenIdTrainer(trl.DPOTrainer):  # type: ignore[misc]
    """TRL's trainer on rows that hold token ids already."""

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset


def make_trainer(kind: Any, folder: Path, reference: Path, rows: list[dict[str, Any]], scratch: Path) -> Any:
    arguments = trl.DPOConfig(
        output_dir=str(scratch),
        beta=BETA,
        max_length=None,
        per_device_train_batch_size=len(rows),
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
    )
    return kind(
        model=load_model(folder),
        ref_model=load_model(reference),
        args=arguments,
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=PreTrainedTokenizerFast.from_pretrained(folder),
    )


def test_loss_and_gradients_equal_those_of_trl(qwen: Path, other_qwen: Path, tmp_path: Path) -> None:
    pairs = make_pairs(qwen, PAIRS)
    rows = [
        {
            "prompt_ids": [*pair.prompt_ids, *chain(*pair.path_ids)],
            "chosen_ids": pair.chosen_ids,
            "rejected_ids": pair.rejected_ids,
        }
        for pair in pairs
    ]
    trainer = make_trainer(TokenIdTrainer, qwen, other_qwen, rows, tmp_path)
    batch = next(iter(trainer.get_train_dataloader()))
    wanted = trainer.compute_loss(trainer.model, batch)
    wanted.backward()

    reference = load_model(other_qwen)
    layout = Pairs(pairs, "pairs", Limit(256, "maxLength", 29))
    samples = layout.samples
    with torch.no_grad():
        sides = [[pair.chosen for pair in samples], [pair.rejected for pair in samples]]
        scores = torch.stack([sums(response_logprobs(reference, side, "float32"), side) for side in sides], dim=1)
    model = load_model(qwen)
    loss_of = StepDPOLoss(pairs, layout, scores.tolist(), StepDPOConfig(beta=BETA, precision="float32"))
    loss = loss_of(model, range(PAIRS)) / PAIRS
    loss.backward()

    assert loss.item() == pytest.approx(wanted.item(), abs=1e-5)
    assert abs(loss.item() - 0.6931) > 0.01
    theirs = dict(trainer.model.named_parameters())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, theirs[name].grad, atol=1e-5, rtol=0, msg=name)
    assert max(float(parameter.grad.abs().max()) for parameter in model.parameters()) > 1e-2


def test_on_plain_text_trl_has_our_ids_plus_its_eos(qwen: Path, other_qwen: Path, tmp_path: Path) -> None:
    rows = [
        {"prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected}
        for pair in make_pairs(qwen, PAIRS)
        if pair.level == 1
    ]
    trainer = make_trainer(trl.DPOTrainer, qwen, other_qwen, rows, tmp_path)
    eos = encode("<eos>")
    for row, tokenised in zip(rows, trainer.train_dataset, strict=True):
        assert tokenised["prompt_ids"] == encode(row["prompt"])
        assert tokenised["chosen_ids"] == encode(row["chosen"]) + eos
        assert tokenised["rejected_ids"] == encode(row["rejected"]) + eos
