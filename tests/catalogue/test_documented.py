"""docs/models.md names everything that a card may say."""

from __future__ import annotations

from pathlib import Path

import pytest

from exo_rkllm.catalogue.card import KEYS, TABLES
from exo_rkllm.chat.families import FAMILIES
from exo_rkllm.chat.formats import REASONING, TOOLS

PAGE = (Path(__file__).parent.parent.parent / "docs" / "models.md").read_text()
WORDS = [
    *(key for keys in KEYS.values() for key in keys),
    *(f"[{table}]" for table in sorted(TABLES)),  # two workers of one run must count alike
    *TOOLS,
    *REASONING,
    *FAMILIES,
]


@pytest.mark.parametrize("word", WORDS)
def test_the_page_has_it(word: str) -> None:
    assert f"`{word}`" in PAGE
