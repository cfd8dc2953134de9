"""Every statement of the seed documents has a test, or a line that says why it cannot apply."""

from __future__ import annotations

import pytest

from tests.seeds.page import PAGE, marked, page
from tests.seeds.rows import TABLES, WHY_NOT

HELD = marked()
ROWS = [(number, row) for number, table in TABLES.items() for row in table.rows]


@pytest.mark.parametrize("row", ROWS, ids="-".join)
def test_a_statement_is_held_or_cannot_apply(row: tuple[str, str]) -> None:
    assert (row in HELD) != (row in WHY_NOT)


def test_no_test_is_marked_with_a_statement_that_is_none() -> None:
    assert not set(HELD) - set(ROWS)


def test_the_page_is_what_the_tests_say() -> None:
    assert PAGE.read_text() == page(), "write it anew: python -m tests.seeds.page"
