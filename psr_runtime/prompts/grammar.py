"""The step grammar: `Step 1: …\\nStep 2: …`, where a step ends, which step is the last, what a verdict is.

A step owns its `Step l: ` header and its trailing newline; the last step holds the answer (paper §3.2).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Literal

ANSWER = re.compile(r"\bthe (final )?answer is\b", re.IGNORECASE)
VERDICT = re.compile(r"\[\[([AB])\]\]")
HEADER = re.compile(r"^Step (\d+):", re.MULTILINE)


def header(level: int) -> str:
    """How step `level` starts. A step's sampling stops at the header of the next one."""
    return f"Step {level}:"


def cut_at_next_step(ids: Sequence[int], decode: Callable[[Sequence[int]], str], level: int) -> int | None:
    """How many of `ids` belong to step `level` when the next step has begun.

    Args:
        ids: sampled ids of the step and of what the model wrote after it.
        decode: ids -> text, special tokens skipped, spaces untouched.
        level: number of the step.

    Returns:
        The smallest k whose text `decode(ids[:k])` ends in a newline while the rest starts with the next header;
        None where no next step begins or the border lies inside a token.
    """
    text = decode(ids)
    border = text.find("\n" + header(level + 1))
    if border < 0:
        return None
    low, high = 0, len(ids)  # decoded length grows with k
    while low < high:
        middle = (low + high) // 2
        if len(decode(ids[:middle])) < border + 1:
            low = middle + 1
        else:
            high = middle
    return low if decode(ids[:low]) == text[: border + 1] else None


def is_final(text: str) -> bool:
    """Whether a step states the answer: a balanced `\\boxed{…}` or `the (final) answer is`."""
    return boxed(text) is not None or ANSWER.search(text) is not None


def boxed(text: str) -> str | None:
    """Content of the last balanced `\\boxed{…}`, or None."""
    for at in reversed([match.end() for match in re.finditer(r"\\boxed\{", text)]):
        depth = 1
        for position in range(at, len(text)):
            depth += {"{": 1, "}": -1}.get(text[position], 0)
            if depth == 0:
                return text[at:position]
    return None


def verdict(text: str) -> Literal["A", "B"] | None:
    """The last `[[A]]` or `[[B]]` of a judgement, or None. Paper Figure 5."""
    verdicts = VERDICT.findall(text)
    if not verdicts:
        return None
    return "A" if verdicts[-1] == "A" else "B"


def split_steps(text: str) -> list[str]:
    """The steps of a solution, each with its header; text before the first header belongs to the first step."""
    starts = [match.start() for match in HEADER.finditer(text)]
    if not starts:
        return [text]
    starts[0] = 0
    return [text[start:end] for start, end in zip(starts, [*starts[1:], len(text)], strict=True)]
