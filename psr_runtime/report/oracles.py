"""Oracles of steps (`report.stepOracle`): whether a step is right, for problems simple enough to tell from it alone.

They serve the demo, whose problems are sums: its report judges the judge after the fact, where paper Table 6 asks
humans. Nothing that they say reaches a model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from psr_runtime.prompts.grammar import HEADER

StepOracle = Callable[[str], bool | None]
"""Text of a step -> whether it is right; None where the oracle cannot tell."""

NUMBER = r"-?(?:\d{1,3}(?:,\d{3})+|\d{1,18})(?!\d)"
SIDE = rf"{NUMBER}(?:[ \t]*[-+*][ \t]*{NUMBER})*"
CHAIN = re.compile(rf"(?<!\d){SIDE}(?:[ \t]*=[ \t]*{SIDE})+")
TERM = re.compile(rf"({NUMBER})[ \t]*([-+*]?)[ \t]*")
SIGNS = str.maketrans({"×": "*", "·": "*", "−": "-", "$": " "})


def arithmetic(step: str) -> bool | None:
    """Whether every equality of integers in a step holds.

    Sums, differences and products of integers are read, chains (`2 + 3 = 5 = 5`) and `= \\boxed{5}` too. An equality
    without an operator, or one that is part of something larger (a fraction, a decimal, a product with a bracket or a
    variable), is not judged.

    Returns:
        True or False; None where there is no equality to judge.
    """
    text = HEADER.sub("", step)
    text = re.sub(r"\\boxed\{([^{}]*)\}", r"\1", text)
    text = re.sub(r"\\times|\\cdot|(?<=\d)[ \t]*x[ \t]*(?=\d)", "*", text).translate(SIGNS)
    held = [
        len({_value(side) for side in match[0].split("=")}) == 1
        for line in text.splitlines()
        for match in CHAIN.finditer(line)
        if _is_whole(line, match)
    ]
    return all(held) if held else None


def _is_whole(line: str, match: re.Match[str]) -> bool:
    """Whether the equality has an operator and what stands beside it is no part of the same expression."""
    before, after = line[: match.start()], line[match.end() :]
    if not any(len(TERM.findall(side)) > 1 for side in match[0].split("=")):
        return False
    goes_on_left = before.rstrip()[-1:] in tuple("+-*/^_\\{") or re.search(r"(\w|[.,])$", before)
    goes_on_right = after.lstrip()[:1] in tuple("+-*/^_\\{(%") or re.match(r"\w|[.,]\d", after)
    return not (goes_on_left or goes_on_right)


def _value(side: str) -> int:
    """Value of a sum of products."""
    total, product, sign = 0, 1, 1
    for number, operator in TERM.findall(side):
        product *= int(number.replace(",", ""))
        if operator != "*":
            total, product = total + sign * product, 1
            sign = -1 if operator == "-" else 1
    return total


ORACLES: Mapping[str, StepOracle | None] = {"None": None, "Arithmetic": arithmetic}
"""By the name in a configuration."""
