"""The table of forms in docs/data.md is that of the code."""

from __future__ import annotations

import os

import pytest

from psr_runtime.data.schemas import SCHEMAS, Schema, documented
from tests.docs.pages import ROOT

PAGE = ROOT / "docs" / "data.md"
BEGIN = "<!-- forms: written by PSR_WRITE_GOLDEN=1 pytest tests/docs/test_data_page.py -->\n"
END = "<!-- end of forms -->\n"


def test_the_page_has_the_table_of_forms() -> None:
    before, _, rest = PAGE.read_text().partition(BEGIN)
    table, _, after = rest.partition(END)
    assert after, f"{PAGE.name} has lost the marks of its table"
    if os.environ.get("PSR_WRITE_GOLDEN"):
        PAGE.write_text(f"{before}{BEGIN}{documented()}\n{END}{after}")
        return
    assert table == f"{documented()}\n", "PSR_WRITE_GOLDEN=1 pytest tests/docs/test_data_page.py writes it anew"


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: schema.name)
def test_every_form_stands_in_the_table_by_its_name(schema: Schema) -> None:
    assert f"| **{schema.name}**: {schema.marks} | " in documented()
