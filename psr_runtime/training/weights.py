"""Models in memory: loaded from a folder or made fresh, always in float32, with every fault named."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from psr_runtime.protocol.errors import DataError


def load_model(folder: Path, weights: Literal["Pretrained", "Random"] = "Pretrained", seed: int = 0) -> Any:
    """A causal language model with float32 weights, in evaluation mode on the best device of this machine.

    A bfloat16 folder is loaded as float32 too: at the paper's learning rates most updates of a bfloat16 weight
    round to nothing.

    Args:
        weights: `Random` makes fresh weights from `config.json` by its own initialisation.
        seed: of fresh weights.

    Raises:
        DataError: the folder cannot be read as a model, or lacks weights that its configuration asks for.
    """
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        if weights == "Random":
            config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            torch.manual_seed(seed)
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False)
        else:
            model, loading = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=torch.float32,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
            missing = sorted(loading["missing_keys"])
            if missing:
                raise DataError(f"{folder}: {len(missing)} weights are not in its files, the first is {missing[0]}")
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise DataError(f"{folder}: no causal language model can be read here ({error})") from error
    return model.eval().to(best_device())


def best_device() -> torch.device:
    """The first CUDA device, or the processor."""
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def is_tied(model: Any) -> bool:
    """Whether input and output embeddings are one tensor."""
    head = model.get_output_embeddings()
    return head is not None and head.weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()


def rounded_state(model: Any, dtype: torch.dtype) -> dict[str, Tensor]:
    """The model's state in another dtype; tensors that share memory still do, so that ties are kept."""
    rounded: dict[tuple[int, torch.Size], Tensor] = {}
    state = {}
    for name, value in model.state_dict().items():
        key = (value.data_ptr(), value.shape)
        if key not in rounded:
            rounded[key] = value.to(dtype) if value.is_floating_point() else value
        state[name] = rounded[key]
    return state


@torch.no_grad()
def round_weights(model: Any, dtype: torch.dtype) -> None:
    """Round every weight in place to what `dtype` can hold; the weights stay float32."""
    for parameter in model.parameters():
        parameter.copy_(parameter.to(dtype))


@torch.no_grad()
def changed_in_bfloat16(model: Any, parent: Any) -> int:
    """How many weights differ from the parent's once both are rounded to bfloat16."""
    before = dict(parent.named_parameters())
    return sum(
        int((value.bfloat16() != before[name].bfloat16()).sum()) if name in before else value.numel()
        for name, value in model.named_parameters()
    )
