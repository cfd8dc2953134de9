from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from exo_rkllm.structure import matcher
from tests.api.world import World, world


@pytest.fixture(autouse=True)
def nothing_holds_answers_to_a_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine of this world says what the question holds, and goes on from nothing: tests/structure has others."""
    monkeypatch.setattr(matcher, "installed", lambda: False)


@pytest.fixture
async def server() -> AsyncIterator[World]:
    async with world() as running:
        yield running
