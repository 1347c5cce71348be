"""Which known word somebody meant who wrote another one: `learning_rate` is `learningRate`, `widht` is `width`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

ALIKE = 0.6
"""Share of letters that two words must have in common, in order, to be taken for one another (`difflib`)."""


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that is most like `word`; None where none is. Case, dashes and underscores do not count."""
    by_letters: dict[str, str] = {}
    for name in known:
        by_letters.setdefault(_letters(name), name)
    matches = difflib.get_close_matches(_letters(word), by_letters, n=1, cutoff=ALIKE)
    return by_letters[matches[0]] if matches else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean …?`, to be put at the end of a message; empty where no known word is like `word`."""
    name = nearest(word, known)
    return f"; did you mean {name}?" if name is not None and name != word else ""


def _letters(word: str) -> str:
    return word.casefold().replace("-", "").replace("_", "")
