"""The process that grades: one JSON line in, one JSON line out, math-verify between them.

Run as `python -m psr_runtime.evaluation.graders.math_verify_worker SECONDS`. It sets its own limits, so that no answer
of a model can outlive them even when the process that asked is gone: `SECONDS` of processor time an answer (the kernel
ends the process, also inside a C function) and 2 GiB of memory. `math_verify.py` starts another one in its place.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import sys
from typing import Any

from psr_runtime.prompts.grammar import answer_sentence, boxed, has_empty_box, without_headers

MEMORY_BYTES = 2 << 30
ANSWER_CHARACTERS = 500
"""A longer answer is cut in the record; it is compared whole."""


def compare(gold: str, text: str) -> tuple[str | None, bool]:
    """The answer that a response states, and whether it equals `gold`.

    The answer is the last `\\boxed{…}` that states one; without one, what math-verify finds in the last sentence that
    says `the answer is …`; without such a sentence, what it finds in the text without step headers, unless that has an
    empty box.

    Args:
        gold: LaTeX or plain text, with or without dollar signs.
        text: the response.

    Returns:
        The answer as written (None where there is none) and the verdict.
    """
    from math_verify import verify

    content = boxed(text)
    if content is not None:
        answer, values = content.strip(), _parse(_in_box(content))
    else:
        sentence = answer_sentence(text)
        values = _parse(sentence) if sentence is not None else []
        if not values and not has_empty_box(text):
            values = _parse(without_headers(text))
        answer = str(values[-1]).strip() if values else ""
    if not answer:
        return None, False
    wanted = _parse(_in_box(gold))
    if not (_finite(wanted) and _finite(values)):
        return answer, _squeeze(answer) == _squeeze(gold)
    return answer, bool(verify(wanted, values, timeout_seconds=None)) or _squeeze(answer) == _squeeze(gold)


def _parse(text: str) -> list[Any]:
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse

    kinds = [LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()]
    values: list[Any] = parse(text, kinds, parsing_timeout=None)
    return values


def _in_box(answer: str) -> str:
    """An answer as math-verify reads LaTeX surely: in a box, dollar signs of inline formulas gone."""
    return "\\boxed{" + answer.replace("\\$", "").replace("$", "").strip() + "}"


def _finite(values: list[Any]) -> bool:
    """Whether values can be compared as numbers: `3:00` and `5:00` both parse to 3 / 0 and 5 / 0, complex infinity."""
    from sympy import Basic, nan, zoo  # type: ignore[import-untyped]

    return bool(values) and not any(isinstance(value, Basic) and value.has(zoo, nan) for value in values)


def _squeeze(text: str) -> str:
    return "".join(text.replace("$", "").split())


def main() -> None:
    """Answer requests until standard input ends."""
    seconds = float(sys.argv[1])
    answers = os.fdopen(os.dup(1), "w")
    sys.stdout = sys.stderr  # whatever a parser prints must not end up among the answers
    logging.disable(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    compare("\\frac{1}{2}", "\\boxed{0.5}")  # imports and grammars are loaded before any limit counts
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, seconds)
        try:
            answer, correct = compare(request["gold"], request["text"])
            reply = {"answer": answer[:ANSWER_CHARACTERS] if answer is not None else None, "correct": correct}
        except Exception as error:  # parsers raise whatever a model's text makes them
            reply = {"answer": None, "correct": False, "error": type(error).__name__}
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps(reply), file=answers, flush=True)


if __name__ == "__main__":
    main()
