"""The step grammar: `Step 1: …\\nStep 2: …`, where a step ends, which step is the last, what a verdict is.

A step owns its `Step l: ` header and its trailing newline; the last step holds the answer (paper §3.2). Whoever only
mentions a box or an answer has not stated one: an empty box, a quoted one, `we check whether the answer is`. The search
ends by what stands here, and graders read it, so that both find the same answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Literal

VERDICT = re.compile(r"\[\[([AB])\]\]")
HEADER = re.compile(r"^Step (\d+):", re.MULTILINE)
REPLACEMENT = "\ufffd"
"""What a decoder puts in place of bytes that are no character."""

PHRASE = re.compile(r"\bthe (?:final )?answer is\b", re.IGNORECASE)
PHRASE_WINDOW = 400
"""Characters after the phrase that are read."""
ONLY_ASKED = re.compile(
    r"\b(?:whether|if|unless|until|what|when|check\w*|verif\w+|confirm\w*|sure|certain|assum\w+|suppos\w+|wonder\w*|"
    r"claim\w*|says?|said|not)\b(?:\s+(?:if|whether|that))?\s*$",
    re.IGNORECASE,
)
"""What right before the phrase makes it a question or a doubt."""
BEFORE_BOX = re.compile(r"\bthe (?:final )?answer is( not)?(?:\s|[:$*]|\\[\[(])*$", re.IGNORECASE)
"""The phrase right before a box."""
OPENING = re.compile(
    r"(?:\s|[:=*_\"“]|\\[\[(]|(?:indeed|thus|therefore|exactly|simply|just|then|still|also|now|already|approximately|"
    r"about|equal to)\b)*",
    re.IGNORECASE,
)
"""What may stand between the phrase and the answer."""
REMARK = re.compile(
    r"(?:not|correct|incorrect|right|wrong|valid|invalid|reasonable|plausible|consistent|expected|unclear|unknown|what|"
    r"which|whether|in|to|that|this|as|by|at|of|on|for|from|with|yet|given|obtained|found|required|supposed|going|likely|"
    r"probably|possibly|maybe|perhaps|between|among|either|close|near|an?(?= [a-z])|the(?! [^.\n]*\d))\b"
)
"""First words after the phrase that say something about the answer instead of it."""
SENTENCE_END = re.compile(r"[.!?](?=\s|$)|\n\s*\n")
BOX_PARTS = re.compile(r"\\(?:boxed|fbox)\s*(\{)|\\.|[{}]", re.DOTALL)
"""The start of a box, or what counts for braces: an escaped one does not."""
BOXES = 64
"""So many boxes from the end on are read."""
BLANK = re.compile(
    r"\\(?:[,;:! _]|(?:quad|qquad|ldots|dots|cdots|square|text|mathrm|phantom|boxed|fbox)(?![a-z]))|[\s{}.…?_~$*\"”]"
)
"""What says nothing: spaces, dots that stand for an answer, empty braces."""
ANY_ANSWER = re.compile(r"(?:the|your)?(?:final)?(?:answer|result)(?:here)?", re.IGNORECASE)
"""What stands in a box that is an example of a box, without spaces."""
QUOTES = {"`": "`", '"': '"', "'": "'", "“": "”", "„": "“", "«": "»", "‘": "’"}


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
    step = text[: border + 1]
    # The next header is short and sampling stops at it, so the border is near the end. The length of decoded ids does
    # not grow with their number: where a character is spelled in bytes, one of its bytes too few spoils the text.
    cut = len(ids)
    while cut > 0 and (begun := decode(ids[:cut])) != step:
        if len(begun) < len(step) and not begun.endswith(REPLACEMENT):
            return None
        cut -= 1
    while cut > 0 and decode(ids[: cut - 1]) == step:  # what is skipped in text belongs to the next step
        cut -= 1
    return cut if cut > 0 else None


def is_final(text: str) -> bool:
    """Whether a step states the answer: in a box, or by `the (final) answer is …`."""
    return boxed(text) is not None or answer_sentence(text) is not None


def boxed(text: str) -> str | None:
    r"""Content of the last `\boxed{…}` or `\fbox{…}` that states an answer, or None.

    The box is balanced (escaped braces do not count), is not empty, and stands neither in quotation marks nor after
    words of doubt (`check whether the answer is`). Of boxes in each other the inner one counts. Time grows with the
    length of the text, however boxes are nested.
    """
    for content in reversed(_boxes(text)):
        said = BLANK.sub("", content)
        if said and not ANY_ANSWER.fullmatch(said):
            return content
    return None


def has_empty_box(text: str) -> bool:
    """Whether a text has boxes, and none of them states an answer."""
    return boxed(text) is None and bool(_boxes(text))


def answer_sentence(text: str) -> str | None:
    """The sentence from the last `the (final) answer is …` on that states an answer, or None.

    The phrase states none in a question, after words of doubt (`check whether the answer is 5`), before a remark
    (`the answer is not …`) and with nothing after it; a step header is never an answer.
    """
    stated = None
    for phrase in PHRASE.finditer(text):
        after = text[phrase.end() : phrase.end() + PHRASE_WINDOW]
        opening = OPENING.match(after)
        start = opening.end() if opening is not None else 0
        end = SENTENCE_END.search(after, start)
        answer = HEADER.split(after[start : end.start() if end is not None else None])[0]
        is_doubt = ONLY_ASKED.search(text[max(0, phrase.start() - 40) : phrase.start()]) is not None
        is_question = end is not None and end[0] == "?"
        if BLANK.sub("", answer) and not (is_question or is_doubt or REMARK.match(answer)):
            stated = phrase[0] + after[:start] + answer
    return stated


def without_headers(text: str) -> str:
    """A text without the headers of its steps, whose numbers nobody may take for an answer."""
    return HEADER.sub("", text)


def _boxes(text: str) -> list[str]:
    """Contents of the last balanced boxes that are not only mentioned, in the order of their starts."""
    braces: list[tuple[int, int] | None] = []
    spans: list[tuple[int, int, int]] = []
    for part in BOX_PARTS.finditer(text):
        if part[1] is not None:
            braces.append(part.span())
        elif part[0] == "{":
            braces.append(None)
        elif part[0] == "}" and braces:
            box = braces.pop()
            if box is not None:
                spans.append((*box, part.start()))
    last = sorted(spans)[-BOXES:]
    return [text[content:end] for start, content, end in last if not _is_mentioned(text, start, end + 1)]


def _is_mentioned(text: str, start: int, end: int) -> bool:
    """Whether quotation marks stand around a box (dollar signs may be between), or words of doubt before it."""
    before, after = text[max(0, start - 80) : start], text[end : end + 8].lstrip("$")
    mark = before.rstrip("$")[-1:]
    if mark in QUOTES and after.lstrip(".,")[:1] == QUOTES[mark]:
        return True
    phrase = BEFORE_BOX.search(before)
    return phrase is not None and (phrase[1] is not None or ONLY_ASKED.search(before[: phrase.start()]) is not None)


def verdict(text: str, *, cut_off: bool = False) -> Literal["A", "B"] | None:
    """The last `[[A]]` or `[[B]]` of a judgement, or None. Paper Figure 5.

    Args:
        cut_off: whether the judgement ended because its tokens were used up. It gives no verdict then, whatever it
            quotes: the verdict stands at the end.
    """
    verdicts = VERDICT.findall(text)
    if cut_off or not verdicts:
        return None
    return "A" if verdicts[-1] == "A" else "B"


def split_steps(text: str) -> list[str]:
    """The steps of a solution, each with its header; text before the first header belongs to the first step."""
    starts = [match.start() for match in HEADER.finditer(text)]
    if not starts:
        return [text]
    starts[0] = 0
    return [text[start:end] for start, end in zip(starts, [*starts[1:], len(text)], strict=True)]
