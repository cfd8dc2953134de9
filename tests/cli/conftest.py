"""Terminals, and the daemon's house for what the command line does beside one."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.cli.terminal import Terminal
from tests.daemon.conftest import board_house as board_house
from tests.daemon.conftest import house as house


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def open_one(*argv: str, **more: object) -> Terminal:
        opened.append(Terminal(*argv, **more))  # type: ignore[arg-type]
        return opened[-1]

    yield open_one
    for one in opened:
        one.close()
