"""A model's tokenizer as the stages use it: chat prompts to ids, ids to text, digests.

Loaded from `tokenizer.json` without torch where that is enough, else by transformers' AutoTokenizer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from psr_runtime.protocol.errors import DataError, InputMissing

FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
)
"""What of a model folder makes a tokenizer."""


class Tokenizer:
    """Ids and text of one model.

    Args:
        folder: a Hugging Face folder.
        chat_template: used instead of the folder's own.

    Raises:
        InputMissing: the folder holds no tokenizer.
        DataError: it cannot be read, or has no chat template and none is given.
    """

    def __init__(self, folder: Path, chat_template: str | None = None) -> None:
        if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
            raise InputMissing(f"{folder}: holds no tokenizer (tokenizer.json)")
        self.inner = _load(folder)
        if chat_template is not None:
            self.inner.chat_template = chat_template
        if not self.inner.chat_template:
            raise DataError(f"{folder}: the tokenizer has no chat template; set model.chatTemplate")
        self.digest = tokenizer_digest(folder)
        self.template_digest = "sha256:" + hashlib.sha256(str(self.inner.chat_template).encode()).hexdigest()
        self.eos_ids = _eos_ids(folder, self.inner)

    def prompt_ids(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """Ids of a chat prompt that ends where the assistant's turn begins. Tokenised once, never re-rendered."""
        return self.encode(self.prompt_text(messages))

    def prompt_text(self, messages: Sequence[dict[str, str]]) -> str:
        """The chat template's text for `prompt_ids`.

        Raises:
            DataError: the template refuses these messages (no system role, say).
        """
        try:
            text: str = self.inner.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
        except Exception as error:  # jinja raises whatever a template asks it to
            raise DataError(f"the chat template refuses the messages: {error}") from error
        return text

    def encode(self, text: str) -> list[int]:
        """Ids of rendered text; nothing is added to it."""
        ids: list[int] = self.inner.encode(text, add_special_tokens=False)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids without special tokens; spaces stay as they are."""
        text: str = self.inner.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    @property
    def eos_id(self) -> int:
        """The token that ends an assistant's turn."""
        return self.eos_ids[0]


def tokenizer_digest(folder: Path) -> str:
    """sha256 over the vocabulary-deciding files of a tokenizer, without the chat template."""
    total = hashlib.sha256()
    for name in FILES[:1] if (folder / FILES[0]).is_file() else FILES[4:7]:
        path = folder / name
        if path.is_file():
            total.update(name.encode() + b"\0" + path.read_bytes())
    return "sha256:" + total.hexdigest()


def _load(folder: Path) -> Any:
    try:
        if (folder / "tokenizer.json").is_file():
            from transformers import PreTrainedTokenizerFast

            return PreTrainedTokenizerFast.from_pretrained(str(folder), local_files_only=True)
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{folder}: the tokenizer cannot be read ({error})") from error


def _eos_ids(folder: Path, tokenizer: Any) -> list[int]:
    """Ids that end a turn: the tokenizer's EOS first, then those of generation_config.json."""
    ids = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
    path = folder / "generation_config.json"
    if path.is_file():
        more = json.loads(path.read_text()).get("eos_token_id")
        ids += more if isinstance(more, list) else [more] if more is not None else []
    if not ids:
        raise DataError(f"{folder}: the tokenizer names no EOS token; set eos_token in tokenizer_config.json")
    return list(dict.fromkeys(ids))
