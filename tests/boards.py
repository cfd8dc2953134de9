"""Fixtures: whole boards as folders (simulator/boards.py), and what this process opens.

* `board(profile)`: the root folder of a board, any of `python -m simulator.boards --list`.
* `opens`: `with opens.traced() as paths:` collects the paths that are opened meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from simulator import boards
from tests.opens import Opens


@pytest.fixture
def board(tmp_path: Path) -> Callable[[str], Path]:
    def build(name: str) -> Path:
        return boards.write(name, tmp_path / name)

    return build


@pytest.fixture(scope="session")
def opens() -> Opens:
    return Opens()
