"""Fixtures: whole boards as folders (simulator/boards.py), and what this process opens.

* `board(profile)`: the root folder of a board, any of `python -m simulator.boards --list`.
* `opens`: `with opens.traced() as paths:` collects the paths that are opened meanwhile.
* `with ordinary_user():` is a function, for what root may do and others may not.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
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


@contextlib.contextmanager
def ordinary_user() -> Iterator[None]:
    """Root may read everything, so root becomes nobody for a moment."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
