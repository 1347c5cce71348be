"""What a training leaves: a folder with float32 `master/` weights and the copy that is served.

`master/` is the input and the reference of the next round; `serving/` has the dtype of the servers. Where that is
float32 too there is one copy. Both are complete Hugging Face folders with the parent's tokenizer, byte for byte.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import GenerationConfig

from psr_runtime.prompts.tokens import FILES as TOKENIZER_FILES
from psr_runtime.prompts.tokens import Tokenizer
from psr_runtime.training.weights import is_tied, rounded_state

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


def write_checkpoint(
    folder: Path,
    model: Any,
    parent: Path,
    tokenizer: Tokenizer,
    *,
    serving_dtype: Literal["bfloat16", "float32"],
    chat_template: str | None = None,
    eos_ids: Sequence[int] | None = None,
) -> dict[str, Any]:
    """Write the weights and all that a reader needs.

    Args:
        folder: where `master/` and `serving/` go.
        model: trained, float32.
        parent: Hugging Face folder of the parent, for tokenizer and generation defaults.
        tokenizer: the parent's.
        chat_template: written beside the tokenizer when the configuration gave one.
        eos_ids: tokens that end a turn, the chat format's own first; None keeps what the parent says.

    Returns:
        Facts for the manifest: `layout`, `tied`, `serving_dtype`, `tokenizer_digest`, `template_digest`, `parameters`.
    """
    _write_part(folder / "master", model, parent, "float32", chat_template, eos_ids)
    layout = {"training": "master", "serving": "master"}
    if serving_dtype != "float32":
        _write_part(folder / "serving", model, parent, serving_dtype, chat_template, eos_ids)
        layout["serving"] = "serving"
    return {
        "layout": layout,
        "tied": is_tied(model),
        "serving_dtype": serving_dtype,
        "tokenizer_digest": tokenizer.digest,
        "template_digest": tokenizer.template_digest,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }


def _write_part(
    folder: Path, model: Any, parent: Path, dtype: str, chat_template: str | None, eos_ids: Sequence[int] | None
) -> None:
    defaults = _generation_defaults(parent)
    if eos_ids is not None:
        ids = list(eos_ids) if len(eos_ids) > 1 else eos_ids[0]
        model.config.eos_token_id = defaults["eos_token_id"] = ids
    # Defaults that contradict each other are refused when transformers saves them, so they are written as they are.
    model.generation_config = GenerationConfig()
    model.save_pretrained(folder, state_dict=None if dtype == "float32" else rounded_state(model, DTYPES[dtype]))
    _amend(folder / "config.json", {"dtype": dtype})
    _write(folder / "generation_config.json", defaults)

    for name in TOKENIZER_FILES:
        if (parent / name).is_file():
            shutil.copyfile(parent / name, folder / name)
    if chat_template is not None:
        (folder / "chat_template.jinja").write_text(chat_template, encoding="utf-8")


def _generation_defaults(parent: Path) -> dict[str, Any]:
    """The parent's generation_config.json, or what its config.json says about special tokens."""
    place = parent / "generation_config.json"
    if place.is_file():
        defaults: dict[str, Any] = json.loads(place.read_text())
        return defaults
    config = json.loads((parent / "config.json").read_text())
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    return {name: config[name] for name in names if config.get(name) is not None}


def _amend(path: Path, values: dict[str, Any]) -> None:
    _write(path, json.loads(path.read_text()) | values)


def _write(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n")
