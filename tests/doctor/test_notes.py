"""The notes for owners: links lead somewhere, and every page says where its statements come from."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
NOTES = REPOSITORY / "firmware_notes"
PAGES = sorted(NOTES.rglob("*.md"))
LINK = re.compile(r"\]\(([^)#]+)(?:#[^)]*)?\)")
# A section of the reference in parentheses, as in (3.2), (6, note 7) or (rkllm-runtime 5.1).
SOURCE = re.compile(r"\((?:npu-platform |rkllm-runtime )?\d+(?:\.\d+)?[^()]*\)|npu-platform \d")


@pytest.mark.parametrize("page", [*PAGES, REPOSITORY / "docs/monitoring.md"], ids=lambda page: page.stem)
def test_links_in_the_notes_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_statements_in_the_notes_name_their_source(page: Path) -> None:
    if page.name != "README.md":
        assert SOURCE.search(page.read_text())


def test_front_page_of_the_notes_lists_every_page() -> None:
    front = (NOTES / "README.md").read_text()
    listed = {NOTES / target for target in LINK.findall(front)}
    assert {page for page in PAGES if page.name != "README.md"} == listed
