"""Whether an installed package may have plugins is found out without importlib.metadata; no is a certain answer."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Callable
from importlib.machinery import BuiltinImporter, PathFinder
from pathlib import Path

import pytest

from exo_rkllm.plugins.offers import GROUPS, _may_offer
from tests.plugins.packages import Shelf

FINDERS = (BuiltinImporter, PathFinder)


def info(folder: Path, name: str, group: str) -> None:
    (folder / name).mkdir(parents=True)
    (folder / name / "entry_points.txt").write_text(f"[console_scripts]\nx = exo_rkllm.cli:main\n[{group}]\na = b:c\n")


@pytest.mark.parametrize("group", GROUPS)
def test_package_with_entry_points_of_ours_may_have_plugins(tmp_path: Path, group: str) -> None:
    Shelf(tmp_path).add("zorg", {"gui_scripts": {"x": "y:z"}, group: {"zorg": "zorg:register"}})
    assert _may_offer([str(tmp_path / "missing"), str(tmp_path)], FINDERS)


def an_archive(folder: Path) -> None:
    with zipfile.ZipFile(folder / "on.zip", "w") as archive:
        archive.writestr("x.py", "")
    (folder / "path").symlink_to("on.zip")


def an_egg_that_is_an_archive(folder: Path) -> None:
    (folder / "path").mkdir()
    (folder / "path" / "zorg-1.0.egg").touch()


def unreadable_entry_points(folder: Path) -> None:
    (folder / "path/zorg-1.0.dist-info/entry_points.txt").mkdir(parents=True)


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: info(folder / "path", "zorg-1.0.egg-info", GROUPS[0]),
        lambda folder: info(folder / "path", "EGG-INFO", GROUPS[0]),
        an_archive,
        an_egg_that_is_an_archive,
        unreadable_entry_points,
    ],
)
def test_what_cannot_be_read_at_a_glance_may_have_plugins(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path)
    assert _may_offer([str(tmp_path / "path")], FINDERS)


def test_packages_without_entry_points_of_ours_have_no_plugins(tmp_path: Path) -> None:
    info(tmp_path, "other-1.0.dist-info", "pytest11")
    (tmp_path / "bare-1.0.dist-info").mkdir()
    (tmp_path / "old-1.0.egg-info").write_text("Name: old")
    (tmp_path / "notes-info").touch()
    assert not _may_offer([str(tmp_path), str(tmp_path / "missing")], FINDERS)


def test_finder_that_knows_packages_is_asked(tmp_path: Path) -> None:
    class Finder:
        def find_distributions(self) -> None: ...

    assert _may_offer([str(tmp_path)], [*FINDERS, Finder()])
    assert not any(hasattr(finder, "find_distributions") for finder in sys.meta_path if finder is not PathFinder)
