"""The table of reasons in docs/operator.md is that of the code.

`make reasons` writes it anew.
"""

from __future__ import annotations

import os

import pytest

from psr_operator.reasons import TABLE, Reason, documented
from tests.docs.pages import ROOT

PAGE = ROOT / "docs" / "operator.md"
BEGIN = "<!-- reasons: written by make reasons -->\n"
END = "<!-- end of reasons -->\n"


def test_the_page_has_the_table_of_reasons() -> None:
    before, _, rest = PAGE.read_text().partition(BEGIN)
    table, _, after = rest.partition(END)
    assert after, f"{PAGE.name} has lost the marks of its table"
    if os.environ.get("PSR_WRITE_GOLDEN"):
        PAGE.write_text(f"{before}{BEGIN}{documented()}\n{END}{after}")
        return
    assert table == f"{documented()}\n", "make reasons writes it anew"


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_a_meaning_and_stands_in_the_table(reason: Reason) -> None:
    assert TABLE[reason].advice
    assert f"| `{reason.value}` | {TABLE[reason].kind.value} | " in documented()
