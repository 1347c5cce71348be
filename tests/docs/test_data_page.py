"""The table of forms in docs/data.md is that of the code."""

from __future__ import annotations

import pytest

from psr_runtime.data.schemas import SCHEMAS, Schema, documented
from tests.docs.pages import ROOT, check_generated

PAGE = ROOT / "docs" / "data.md"


def test_the_page_has_the_table_of_forms() -> None:
    check_generated(PAGE, "forms", "PSR_WRITE_GOLDEN=1 pytest tests/docs/test_data_page.py", documented())


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: schema.name)
def test_every_form_stands_in_the_table_by_its_name(schema: Schema) -> None:
    assert f"| **{schema.name}**: {schema.marks} | " in documented()
