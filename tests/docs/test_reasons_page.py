"""The table of reasons in docs/operator.md is that of the code.

`make reasons` writes it anew.
"""

from __future__ import annotations

import pytest

from psr_operator.reasons import TABLE, Reason, documented
from tests.docs.pages import ROOT, check_generated

PAGE = ROOT / "docs" / "operator.md"


def test_the_page_has_the_table_of_reasons() -> None:
    check_generated(PAGE, "reasons", "make reasons", documented())


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_a_meaning_and_stands_in_the_table(reason: Reason) -> None:
    assert TABLE[reason].advice
    assert f"| `{reason.value}` | {TABLE[reason].kind.value} | " in documented()
