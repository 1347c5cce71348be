"""Special tokens inside data: in problems, steps and judgements they are text, in the chat template they are tokens.

Nothing here touches a text without them: its ids are those that the tokenizer gives by itself. A text with them is
encoded in one piece by a copy of the tokenizer that knows each special token under another name, so that spaces and
merges around it are as in any text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer as Inner

from psr_runtime.protocol.errors import DataError

QUIET, LOUD, END = 0xF0000, 0xF8000, 0xFFFFE
"""Private characters: the first ones stand for special tokens in data, the others for those of the template."""


class MessageText(str):
    """Text of a message that knows which parts of it are data. Of a plain string all is.

    Attributes:
        spans: beginning and end of each part that is data.
    """

    spans: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, pieces: Sequence[str]) -> MessageText:
        """The joined pieces; every second one is data."""
        text = cls("".join(pieces))
        ends = [sum(map(len, pieces[: index + 1])) for index in range(len(pieces))]
        text.spans = tuple((ends[index - 1], ends[index]) for index in range(1, len(pieces), 2))
        return text


class Marks:
    """The special tokens of a tokenizer, as they may stand in data.

    Args:
        inner: transformers' tokenizer.
        frame: a rendered question; other added tokens that stand in it count too.
        name: what to call the model in messages.

    Attributes:
        control_ids: of the special tokens that are no part of a text.
    """

    def __init__(self, inner: Any, frame: str, name: str) -> None:
        added = {str(item): item.special for item in inner.added_tokens_decoder.values()}
        special = {item for item, is_special in added.items() if is_special} | set(inner.all_special_tokens)
        control = {item for item in special if not _is_word(item)}
        self.control_ids = frozenset(inner.convert_tokens_to_ids(sorted(control)))
        marks = control | {item for item in added if item in frame and not _is_word(item)}
        self._marks = sorted(marks, key=lambda item: (-len(item), item))
        self._number = {mark: number for number, mark in enumerate(self._marks)}
        self._pattern = re.compile("|".join(map(re.escape, self._marks)) or "(?!)")
        self._inner, self._name = inner, name
        self._renamed: Inner | None = None

    def are_in(self, text: str) -> bool:
        """Whether special tokens stand in the data of a text."""
        return any(self._pattern.search(text, *span) for span in _spans(text))

    def hide(self, text: str) -> str:
        """A text whose data hold a private character for each special token.

        Raises:
            DataError: it holds such characters already.
        """
        if any(QUIET <= ord(char) < END for char in text):
            raise DataError(f"{self._name}: a text holds special tokens and private characters; take one kind out")
        pieces, last = [], 0
        for start, end in _spans(text):
            pieces += [text[last:start], self._pattern.sub(self._quiet, text[start:end])]
            last = end
        return "".join([*pieces, text[last:]])

    def encode(self, rendered: str) -> list[int]:
        """Ids of a rendered text in which data are hidden: special tokens of the template are tokens, others text."""
        loud = self._pattern.sub(lambda match: chr(LOUD + self._number[match[0]]), rendered)
        whole = "".join(self._shown(char) for char in loud)
        if self._renamed is None:
            self._renamed = self._rename()
        ids: list[int] = self._renamed.encode(whole, add_special_tokens=False).ids
        return ids

    def _quiet(self, match: re.Match[str]) -> str:
        return chr(QUIET + self._number[match[0]])

    def _shown(self, char: str) -> str:
        number = ord(char) - QUIET
        return self._marks[number] if 0 <= number < len(self._marks) else char

    def _rename(self) -> Inner:
        """A copy of the tokenizer in which each special token is a private character, with the same id.

        Raises:
            DataError: the tokenizer is none of the `tokenizers` library.
        """
        backend = getattr(self._inner, "backend_tokenizer", None)
        if backend is None:
            raise DataError(
                f"{self._name}: this tokenizer cannot write special tokens as text, and a problem or a step holds one; "
                "give the folder a tokenizer.json"
            )
        names = {mark: chr(LOUD + number) for mark, number in self._number.items()}
        document = json.loads(backend.to_str())
        for item in document["added_tokens"]:
            item["content"] = names.get(item["content"], item["content"])
        model = document["model"]
        model["vocab"] = _renamed_vocabulary(model["vocab"], names)
        if model.get("unk_token") is not None:
            model["unk_token"] = names.get(model["unk_token"], model["unk_token"])
        document["post_processor"] = None
        return Inner.from_str(json.dumps(document))


def _is_word(token: str) -> bool:
    """Whether a token is ordinary text although it is called special: some models pad with `!`, which is their id 0."""
    return len(token.strip()) < 3 or token[0].isalnum() or token[-1].isalnum()


def _spans(text: str) -> Iterable[tuple[int, int]]:
    return text.spans if isinstance(text, MessageText) else ((0, len(text)),)


def _renamed_vocabulary(vocabulary: Any, names: Mapping[str, str]) -> Any:
    """Pieces with ids (BPE, words) or with scores (Unigram)."""
    if isinstance(vocabulary, dict):
        return {names.get(piece, piece): number for piece, number in vocabulary.items()}
    return [[names.get(piece, piece), score] for piece, score in vocabulary]
