"""A shelf of packages, and a house whose daemons find what is on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from exo_rkllm.plugins.registry import PROCESS, Registry
from tests.daemon.running import REPOSITORY, House, house_of
from tests.plugins.packages import Shelf
from tests.simulated import Library


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    (tmp_path / "shelf").mkdir()
    return Shelf(tmp_path / "shelf")


@pytest.fixture
def house(tmp_path: Path, shelf: Shelf) -> Iterator[House]:
    one = house_of(tmp_path / "house")
    one.environment["PYTHONPATH"] = f"{REPOSITORY}:{shelf.folder}"
    with one.stack:
        yield one


@pytest.fixture
def board_house(house: House, board: Callable[[str], Path], library: Library) -> House:
    """On an Orange Pi 5 Plus, with the vendor's library."""
    root = board("orangepi-5-plus")
    house.environment |= {
        "RKLLM_SIM_ROOT": str(root),
        "EXO_RKLLM_BOARD_ROOT": str(root),
        "EXO_RKLLM_RUNTIME_LIBRARY": str(library("1.3.0")),
    }
    return house


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """The process's own, empty for one test."""
    fresh = Registry()
    for name, held in vars(fresh).items():
        monkeypatch.setattr(PROCESS, name, held)
    return PROCESS
