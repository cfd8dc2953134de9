from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.api.world import World, world


@pytest.fixture
async def server() -> AsyncIterator[World]:
    async with world() as running:
        yield running
