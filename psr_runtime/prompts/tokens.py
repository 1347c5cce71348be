"""A model's tokenizer as the stages use it: chat prompts to ids, ids to text, digests.

Loaded from `tokenizer.json` without torch where that is enough, else by transformers' AutoTokenizer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from psr_runtime.prompts.chat import ChatTemplate
from psr_runtime.prompts.marks import Marks
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

GENERATION = ("generation_config.json", "config.json")
"""Files that name ids which end a text; the first one that is there counts."""


class Tokenizer:
    """Ids and text of one model.

    Args:
        folder: a Hugging Face folder.
        chat_template: used instead of the folder's own.
        thinking: `prompts.thinking`.

    Attributes:
        chat: the chat template.
        digest, template_digest: of the vocabulary, and of the chat template's source.
        eos_ids: every token that ends an assistant's turn: what the chat template puts after its message, then the
            tokenizer's EOS, then those of generation_config.json. A base model's EOS ends documents, and its template
            ends turns with another token; both stop sampling, and the first is what SFT teaches.

    Raises:
        InputMissing: the folder holds no tokenizer.
        ConfigurationError: the chat template is to think and cannot.
        DataError: it cannot be read, has no chat template and none is given, does not render the same twice, or no
            token ends a turn.
    """

    def __init__(self, folder: Path, chat_template: str | None = None, thinking: bool | None = None) -> None:
        if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
            raise InputMissing(f"{folder}: holds no tokenizer (tokenizer.json)")
        self.inner = _load(folder)
        if chat_template is not None:
            self.inner.chat_template = chat_template
        if not self.inner.chat_template:
            raise DataError(f"{folder}: the tokenizer has no chat template; set model.chatTemplate")
        self.digest = tokenizer_digest(folder)
        self.template_digest = "sha256:" + hashlib.sha256(str(self.inner.chat_template).encode()).hexdigest()
        self.chat = ChatTemplate(self.inner, str(folder), thinking)
        after = self.encode(self.chat.after_turn().lstrip())
        special = set(self.inner.all_special_ids) | set(self.inner.added_tokens_decoder)
        end = after[:1] if after and after[0] in special else []
        self.eos_ids = list(dict.fromkeys([*end, *_eos_ids(folder, self.inner)]))
        if not self.eos_ids:
            raise DataError(
                f"{folder}: neither the chat template nor the tokenizer names a token that ends a turn; set eos_token "
                "in tokenizer_config.json"
            )
        self._marks = Marks(self.inner, self.chat.frame_text, str(folder))

    def prompt_ids(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Ids of a chat prompt that ends where the assistant's turn begins. Rendered once, tokenised once.

        Special tokens in data (`marks.MessageText`) are encoded as text.

        Raises:
            DataError: the template refuses these messages (no system role, say).
        """
        if any(self._marks.are_in(message["content"]) for message in messages):
            quiet = [{**message, "content": self._marks.hide(message["content"])} for message in messages]
            return self._marks.encode(self.chat.prompt(quiet))
        return self.encode(self.chat.prompt(messages))

    def prompts_ids(self, conversations: Sequence[Sequence[Mapping[str, str]]]) -> list[list[int]]:
        """`prompt_ids` of each."""
        return [self.prompt_ids(messages) for messages in conversations]

    def texts_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of texts that are data, each by itself: nothing is added, special tokens in them are text.

        All at once is many times quicker than one after the other.
        """
        hidden = {
            number: self._marks.encode(self._marks.hide(text))
            for number, text in enumerate(texts)
            if self._marks.are_in(text)
        }
        plain = ["" if number in hidden else text for number, text in enumerate(texts)]
        return [hidden.get(number, ids) for number, ids in enumerate(self._encode_all(plain))]

    def prompt_text(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The chat template's text for `prompt_ids`.

        Raises:
            DataError: the template refuses these messages (no system role, say).
        """
        return self.chat.prompt(messages)

    def encode(self, text: str) -> list[int]:
        """Ids of rendered text; nothing is added to it, and special tokens in it are tokens."""
        ids: list[int] = self.inner.encode(text, add_special_tokens=False)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids without special tokens; spaces stay as they are, and so does a sign that the model pads with."""
        said = [token for token in ids if token not in self._marks.control_ids]
        text: str = self.inner.decode(said, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text

    @property
    def eos_id(self) -> int:
        """The token that ends an assistant's turn, the one that a model learns to end with."""
        return self.eos_ids[0]

    def _encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        encoded: list[list[int]] = self.inner(
            list(texts), add_special_tokens=False, return_attention_mask=False, return_token_type_ids=False
        )["input_ids"]
        return encoded


def tokenizer_digest(folder: Path) -> str:
    """sha256 over the vocabulary-deciding files of a tokenizer, without the chat template."""
    total = hashlib.sha256()
    for name in FILES[:1] if (folder / FILES[0]).is_file() else FILES[4:7]:
        path = folder / name
        if path.is_file():
            total.update(name.encode() + b"\0" + path.read_bytes())
    return "sha256:" + total.hexdigest()


def _load(folder: Path) -> Any:
    """transformers' tokenizer of a folder.

    Raises:
        DataError: it cannot be read; the message says what to do.
    """
    # The libraries raise what comes first: KeyError, AttributeError, ImportError, and bare Exception from Rust.
    try:
        if (folder / "tokenizer.json").is_file():
            from transformers import PreTrainedTokenizerFast

            return PreTrainedTokenizerFast.from_pretrained(str(folder), local_files_only=True)
        from transformers import AutoTokenizer

        loaded = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        if (folder / "tokenizer.json").is_file():
            advice = "fetch tokenizer.json and tokenizer_config.json again, they are cut off or need newer libraries"
        else:
            advice = "give the folder a tokenizer.json: load it with AutoTokenizer where it works, and save_pretrained"
        raise DataError(f"{folder}: the tokenizer cannot be read ({why}); {advice}") from error
    if not callable(getattr(loaded, "apply_chat_template", None)):
        raise DataError(
            f"{folder}: the tokenizer cannot be read (it is none of text); give the folder a tokenizer.json"
        )
    return loaded


def _eos_ids(folder: Path, tokenizer: Any) -> list[int]:
    """The tokenizer's EOS, then what generation_config.json names; of a folder without it, what config.json names.

    Raises:
        DataError: such a file is no JSON, or names something else than token ids.
    """
    ids = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
    path = next((folder / name for name in GENERATION if (folder / name).is_file()), None)
    if path is not None:
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            more = document.get("eos_token_id")
        except (ValueError, AttributeError) as error:
            raise DataError(f"{path}: not a JSON object ({error}); fetch the file again") from error
        more = more if isinstance(more, list) else [more] if more is not None else []
        if not all(isinstance(item, int) for item in more):
            raise DataError(f"{path}: eos_token_id is {more}; expected a token id, or a list of them")
        ids += more
    return ids
