"""Every statement of the seed documents has a test, or a reason why no test can verify it here."""

from __future__ import annotations

import pytest

from tests.seeds.page import PAGE, marked_tests, page
from tests.seeds.rows import SEEN, TABLES, WHY_NOT

TESTS = marked_tests()
ROWS = [(number, row) for number, table in TABLES.items() for row in table.rows]


@pytest.mark.parametrize("row", ROWS, ids="-".join)
def test_each_statement_has_a_test_or_a_reason(row: tuple[str, str]) -> None:
    assert (row in TESTS) != (row in WHY_NOT)


def test_each_seed_mark_names_a_statement() -> None:
    assert not (set(TESTS) | set(SEEN)) - set(ROWS)


def test_page_matches_the_tests() -> None:
    assert PAGE.read_text() == page(), "regenerate it: python -m tests.seeds.page"
