"""A catalogue that the kernel tells of changes: it looks at nothing in between, and never answers with what was."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from exo_rkllm.catalogue import card, folder_watch, store
from exo_rkllm.catalogue.folder_watch import FolderWatch, is_shared
from exo_rkllm.catalogue.store import Catalogue
from exo_rkllm.errors import ModelNotFound
from exo_rkllm.files.inotify import OVERFLOW, Inotify

CARD = 'id = "{}"\n[weights]\nfile = "w.rkllm"\n'


def entry(folder: Path, name: str) -> Path:
    (folder / name).mkdir(parents=True)
    (folder / name / "w.rkllm").write_bytes(b"weights")
    (folder / name / card.FILE).write_text(CARD.format(name))
    return folder / name


class Looks:
    """How often the folder was read, and how often the watch has told of a change."""

    def __init__(self) -> None:
        self.scans = self.changes = 0

    def changed(self) -> None:
        self.changes += 1


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Looks:
    looks, scandir = Looks(), os.scandir

    def counted(path: Path) -> Iterator[os.DirEntry[str]]:
        looks.scans += 1
        return scandir(path)

    monkeypatch.setattr(os, "scandir", counted)
    return looks


@pytest.fixture
def catalogue(tmp_path: Path, looks: Looks) -> Iterator[Catalogue]:
    catalogue = Catalogue(tmp_path / "models")
    for name in ("a", "b"):
        entry(catalogue.directory, name)
    catalogue.watch = FolderWatch(catalogue.directory, looks.changed)
    yield catalogue
    catalogue.watch.close()


def ids(catalogue: Catalogue) -> list[str]:
    listing = catalogue.scan()
    return [*listing.by_id, *(f"broken: {problem.folder.name}" for problem in listing.problems)]


def test_nothing_is_read_again_while_nothing_changes(catalogue: Catalogue, looks: Looks) -> None:
    assert ids(catalogue) == ["a", "b"]
    for name in ("a", "A", "a:latest", "b"):
        catalogue.resolve(name)
    assert catalogue.resolve_adapter("a:latest")[0] is catalogue.get("a")
    with pytest.raises(ModelNotFound):
        catalogue.resolve("c")
    assert (looks.scans, looks.changes) == (1, 0)


CHANGES: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "a model comes": (lambda folder: entry(folder.parent / "x", "c").rename(folder / "c"), ["a", "b", "c"]),
    "a folder comes before its card": (lambda folder: entry(folder, "c"), ["a", "b", "c"]),
    "a model goes": (lambda folder: (folder / "b").rename(folder / ".trash-b"), ["a"]),
    "a model is removed in place": (lambda folder: shutil.rmtree(folder / "b"), ["a"]),
    "a card is edited": (lambda folder: (folder / "b/model.toml").write_text("id = 7"), ["a", "broken: b"]),
    "a card goes": (lambda folder: (folder / "b/model.toml").unlink(), ["a"]),
    "weights go": (lambda folder: (folder / "b/w.rkllm").rename(folder / "b/.w"), ["a", "broken: b"]),
    "the whole folder goes": (lambda folder: folder.rename(folder.parent / "old"), []),
    "another folder is put in its place": (
        lambda folder: (folder.rename(folder.parent / "old"), entry(folder, "z")),
        ["z"],
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_change_is_seen_by_the_next_look(catalogue: Catalogue, looks: Looks, what: str) -> None:
    change, expected = CHANGES[what]
    assert ids(catalogue) == ["a", "b"]
    change(catalogue.directory)
    assert ids(catalogue) == expected
    assert ids(catalogue) == expected
    if expected and "z" not in expected:
        assert looks.changes
        scans = looks.scans
        catalogue.list()
        assert looks.scans == scans, "what is there now is watched as well"


def test_repair_is_seen(catalogue: Catalogue) -> None:
    (catalogue.directory / "b/model.toml").write_text("id = 7")
    assert ids(catalogue) == ["a", "broken: b"]
    (catalogue.directory / "b/model.toml").write_text(CARD.format("b"))
    assert ids(catalogue) == ["a", "b"]


def test_repair_by_owner_or_mode_is_seen(catalogue: Catalogue, looks: Looks) -> None:
    catalogue.list()
    (catalogue.directory / "b/model.toml").chmod(0o600)
    catalogue.list()
    assert looks.scans == 2


def test_hidden_files_change_nothing(catalogue: Catalogue, looks: Looks) -> None:
    catalogue.list()
    (catalogue.directory / ".pull-x").mkdir()
    (catalogue.directory / "a/.model.toml.1").write_text("half")
    catalogue.list()
    assert (looks.scans, looks.changes) == (1, 0)


def test_configured_aliases_count_from_the_next_name_on(catalogue: Catalogue) -> None:
    with pytest.raises(ModelNotFound):
        catalogue.resolve("gpt-4o")
    catalogue.aliases = {"gpt-4o": "a"}
    assert catalogue.resolve("gpt-4o").id == "a"
    catalogue.aliases = {"gpt-4o": "b"}
    assert catalogue.resolve("gpt-4o").id == "b"


def test_names_of_strangers_are_not_kept_for_ever(catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "MOST_NAMES", 3)
    for number in range(10):
        with pytest.raises(ModelNotFound):
            catalogue.resolve(f"x{number}")
    assert catalogue._names is not None and len(catalogue._names[2]) <= 3


def refuse(_self: Inotify, _folder: Path, _mask: int = 0) -> int:
    return -1


def lose(_self: Inotify) -> list[tuple[int, str]]:
    return [(OVERFLOW, "")]


@pytest.mark.parametrize(
    ("owner", "name", "value"),
    [
        (Inotify, "watch", refuse),  # fs.inotify.max_user_watches
        (Inotify, "read", lose),
        (folder_watch, "is_shared", lambda _device: True),
    ],
)
def test_folder_that_cannot_be_watched_is_read_each_time(
    catalogue: Catalogue, looks: Looks, monkeypatch: pytest.MonkeyPatch, owner: object, name: str, value: object
) -> None:
    monkeypatch.setattr(owner, name, value)
    for _ in range(3):
        assert ids(catalogue) == ["a", "b"]
    assert looks.scans == 3


def test_file_systems_of_other_machines_are_told_apart(tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "36 35 98:0 / /mnt rw,noatime master:1 - ext4 /dev/root rw\n"
        "37 35 0:51 / /models rw shared:2 - nfs4 nas:/models rw,vers=4.2\n"
        "38 35 0:52 / /ssh rw - fuse.sshfs nas:/ rw\n"
        "39 35 8:1 / /usb rw - fuseblk /dev/sda1 rw\n"
    )
    devices = [os.makedev(98, 0), os.makedev(0, 51), os.makedev(0, 52), os.makedev(8, 1), os.makedev(1, 1)]
    assert [is_shared(device, mounts) for device in devices] == [False, True, True, False, False]
    assert not is_shared(devices[1], tmp_path / "none")
