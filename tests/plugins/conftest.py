"""A shelf of packages, and a house whose daemons find what is on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon.running import REPOSITORY, House, house_of
from tests.plugins.packages import Shelf


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
