"""docs/models.md names everything that a card may say."""

from __future__ import annotations

from pathlib import Path

import pytest

from exo_rkllm.catalogue.card import CARD
from exo_rkllm.chat.families import FAMILIES
from exo_rkllm.chat.formats import REASONING, TOOLS
from exo_rkllm.schema.specs import FieldSpec, Free, ObjectSpec

PAGE = (Path(__file__).parent.parent.parent / "docs" / "models.md").read_text()


def words(spec: FieldSpec) -> list[str]:
    """A key as the page has it; for a table its name in brackets, then its keys."""
    if isinstance(spec.kind, ObjectSpec):
        return [f"[{spec.name}]", *(inner.name for inner in spec.kind.fields)]
    return [f"[{spec.name}]" if isinstance(spec.kind, Free) else spec.name]


WORDS = [
    *(word for spec in CARD.fields for word in words(spec)),
    *TOOLS,
    *REASONING,
    *FAMILIES,
]


@pytest.mark.parametrize("word", WORDS)
def test_documentation_page_names_every_key(word: str) -> None:
    assert f"`{word}`" in PAGE
