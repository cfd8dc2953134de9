"""Boards as folders: a fixture builds any profile of the simulator."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from simulator import boards


@pytest.fixture
def board(tmp_path: Path) -> Callable[[str], Path]:
    """`board("orangepi-5-plus")` is the root folder of such a board."""

    def build(name: str) -> Path:
        return boards.write(name, tmp_path / name)

    return build
