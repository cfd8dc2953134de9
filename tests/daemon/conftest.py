"""A house to start daemons in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.daemon.running import House, house_of
from tests.simulated import Library


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    one = house_of(tmp_path / "house")
    with one.stack:
        yield one


@pytest.fixture
def board_house(house: House, board: Callable[[str], Path], library: Library) -> House:
    """On an Orange Pi 5 Plus, with the vendor's library."""
    # A Unix socket's path has 107 bytes, and one of pytest's folders may take 80 of them.
    root = board("orangepi-5-plus").rename(house.folder / "b")
    house.environment |= {
        "RKLLM_SIM_ROOT": str(root),
        "EXO_RKLLM_BOARD_ROOT": str(root),
        "EXO_RKLLM_RUNTIME_LIBRARY": str(library("1.3.0")),
    }
    return house
