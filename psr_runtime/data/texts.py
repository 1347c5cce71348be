"""Solutions that are text, as steps: where they are cut, and what is taken out of them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from psr_runtime.prompts.grammar import HEADER, boxed, header, split_steps

CALCULATOR = re.compile(r"<<[^<>\n]*>>")
"""GSM8K's marks of its calculator: `<<48/2=24>>`."""
ANSWER_SECTION = re.compile(r"\n*# Answer\n+(.+?)\s*\Z", re.DOTALL)
"""How PRM800K ends a solution."""
ANSWER_LINE = re.compile(r"(?i)(the (?:final )?answer is:?)[ \t]*([^\n]+?)[ \t]*\Z")
"""How Math-Shepherd ends a solution."""
OPENERS = re.compile(r"\\begin\{|\\\[|\[asy\]")
CLOSERS = re.compile(r"\\end\{|\\\]|\[/asy\]")


def without_calculator(text: str) -> str:
    """The text without calculator marks."""
    return CALCULATOR.sub("", text)


def with_boxed_answer(text: str) -> str:
    """The text with its final answer in a box, which the solver prompt asks for (paper Figure 4).

    `# Answer` of PRM800K and `The answer is: 5` of Math-Shepherd are rewritten; other texts stay as they are.
    """
    if boxed(text) is not None:
        return text
    if section := ANSWER_SECTION.search(text):
        return f"{text[: section.start()].rstrip()} {final_answer(section[1])}".lstrip()
    return ANSWER_LINE.sub(lambda line: f"{line[1]} {_box(line[2].rstrip('.'))}.", text)


def final_answer(answer: str) -> str:
    """The sentence that ends a solution."""
    return f"The final answer is {_box(answer)}."


def _box(answer: str) -> str:
    return f"\\boxed{{{answer.strip().strip('$')}}}"


def numbered(texts: Sequence[str], *, first: int = 1) -> list[str]:
    """The texts as steps: each gets its `Step n: ` header, in the place of a header that it has."""
    return [step_text(text, number) for number, text in enumerate(texts, first)]


def step_text(text: str, number: int) -> str:
    """A text as step `number`."""
    stripped = text.strip()
    match = HEADER.match(stripped)
    return f"{header(number)} {stripped[match.end() :].strip() if match else stripped}"


def steps_of(solution: str) -> list[str]:
    """A solution as steps with headers: cut at its own `Step n:` headers, else at its empty lines.

    A displayed formula or a figure is not cut, nor is what a colon announces.
    """
    if HEADER.search(solution):
        pieces = [HEADER.sub("", piece, count=1) for piece in split_steps(solution)]
    else:
        pieces = []
        depth = 0
        for paragraph in re.split(r"\n[ \t]*\n", solution.replace("\r\n", "\n")):
            if not paragraph.strip():
                continue
            if depth > 0 or (pieces and pieces[-1].rstrip().endswith(":")):
                pieces[-1] += f"\n{paragraph}"
            else:
                pieces.append(paragraph)
            depth += len(OPENERS.findall(paragraph)) - len(CLOSERS.findall(paragraph))
    return numbered([piece for piece in pieces if piece.strip()])
