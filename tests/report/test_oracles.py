"""The arithmetic oracle, as a table."""

import pytest

from psr_runtime.report.oracles import arithmetic

RIGHT = [
    "Step 1: 85 + 3 = 88\n",
    r"Step 3: 94 + 5 = \boxed{99}",
    "2 + 3 * 4 = 14",
    "10 - 2 - 3 = 5",
    "10-2-3=5",
    "2 - -3 = 5",
    "$5 + $3 = $8.",
    "1,000 + 1 = 1,001",
    r"3 \times 4 = 12 = 6 + 6",
    "3 x 4 = 12 apples, so 12 − 2 = 10.",
    "f(3) = 3 + 4 = 7",
    "1 + 1 = 2\n- 2 + 3 = 5",
]
WRONG = [
    "Step 1: 85 + 3 = 89",
    r"Step 3: 94 + 5 = \boxed{98}",
    "2 + 3 * 4 = 20",
    "1 + 1 = 2, 2 + 2 = 5",
    "3 + 4 = 7 = 3 + 5",
]
SILENT = [
    "",
    "Step 2: 5",
    "x = 5 = 6",
    "x + 3 = 10",
    "2 * (3 + 4) = 14",
    "(3 + 4) * 2 = 14",
    "10 / 2 + 1 = 6",
    "3.5 + 2 = 5.5",
    "2 + 3 = 5.5",
    "3 + 4 = 7x",
    "3 + 4 = 5^2",
    "20% of 5 = 1",
    "1" * 40 + " + 1 = 2",
]


@pytest.mark.parametrize(
    ("step", "right"),
    [(step, True) for step in RIGHT] + [(step, False) for step in WRONG] + [(step, None) for step in SILENT],
)
def test_a_step_is_right_when_every_equality_of_integers_holds(step: str, right: bool | None) -> None:
    assert arithmetic(step) is right
