"""What root does in the service's folders, while the service's account swaps everything there for links."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from exo_rkllm import privileges
from exo_rkllm.catalogue.importing import import_
from exo_rkllm.catalogue.originals import Originals
from exo_rkllm.catalogue.store import Catalogue
from exo_rkllm.errors import ConfigError
from exo_rkllm.privileges import open_original, owner_of
from tests.catalogue.swapping import SERVICE, forked, wait

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give up root's rights")
TRIES = 2000 if os.environ.get("TESTS_LONG") else 400
SIZE = 1 << 16  # of the model, whose copies the service keeps


@pytest.fixture
def base() -> Iterator[Path]:
    """Reachable for other accounts, as pytest's folders are not, and in memory, where no verb waits for a disk."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="exo-rkllm-swapping-", dir=memory if memory.is_dir() else None))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder)


def facts(folder: Path) -> list[tuple[str, int, int, int, int]]:
    """What must not change: names, modes, owners, sizes and times."""
    return [
        (str(path), (one := path.lstat()).st_mode, one.st_uid, one.st_size, one.st_mtime_ns)
        for path in sorted([folder, *folder.rglob("*")])
    ]


@pytest.fixture
def protected(base: Path) -> Path:
    """Root's alone: a canary, and names that a verb writes."""
    folder = base / "protected"
    folder.mkdir(mode=0o700)
    (folder / "m").mkdir()
    for name in ("canary", "m.rkllm", "model.toml", ".lock", ".trash-1"):
        (folder / name).write_text("root's")
        (folder / name).chmod(0o600)
    return folder


def test_no_verb_of_root_leaves_the_folders_of_a_swapping_service(
    base: Path, protected: Path, make_model: Callable[..., Path], library: Callable[..., Path]
) -> None:
    (base / "state").mkdir()
    (base / "source").mkdir(mode=0o700)
    shutil.move(make_model(reply="x", size=SIZE), base / "source/m.rkllm")
    (base / "source/tokenizer_config.json").write_text("{}")
    shutil.copy(library("1.3.0"), base / "librkllmrt.so")
    before = facts(protected), facts(base / "source"), sorted(path.name for path in base.iterdir())
    # Coverage would write a file for each try, which costs as much as the try itself.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    done = subprocess.run(
        [sys.executable, "-m", "tests.catalogue.swapping", base, str(TRIES)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    made = [base / "state", *(base / "state").rglob("*")]
    linked = (base / "source/m.rkllm").stat()
    others = {path: path.lstat() for path in made if path.lstat().st_ino != linked.st_ino}
    assert {path: one.st_uid for path, one in others.items() if (one.st_uid, one.st_gid) != (SERVICE, SERVICE)} == {}
    ends = json.loads(done.stdout)
    assert sum(ends.values()) == TRIES
    assert ends.get("import 0"), f"no import was ever faster than the intruder: {ends}"
    assert set(ends) <= {f"{verb} {code}" for verb in ("import", "rm", "install", "drop") for code in range(3)}, ends
    assert (facts(protected), facts(base / "source"), sorted(path.name for path in base.iterdir())) == before


def test_owner_of_a_folder_is_the_first_other_account_on_its_path(base: Path) -> None:
    (base / "state").mkdir()
    (base / "state/models").mkdir()
    assert owner_of(base / "state/models") == owner_of(base / "not/yet") == 0
    os.chown(base / "state", 4711, 4711)
    assert owner_of(base / "state/models") == 4711
    assert owner_of(base / "state/models/..") == owner_of(base / "state/not/yet") == 4711
    (base / "shortcut").symlink_to("state/models")
    assert owner_of(base / "shortcut") == 4711, "a link of root's is followed"
    os.lchown(base / "shortcut", 4712, 4712)
    assert owner_of(base / "shortcut" / "models") == 4712, "a link of another account leads where that account likes"
    (base / "round").symlink_to(base / "round")
    with pytest.raises(ConfigError, match="leads to itself"):
        owner_of(base / "round")


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o1777])
def test_root_writes_in_no_folder_of_its_own_that_others_may_change(base: Path, mode: int) -> None:
    folder = base / "models"
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(ConfigError, match=f"{folder} is root's, and other accounts may change it"):
        owner_of(folder)
    (folder / "inner").mkdir()
    if mode & 0o1000:  # as in /tmp, nobody else can swap what is root's
        assert owner_of(folder / "inner") == 0
    else:
        with pytest.raises(ConfigError):
            owner_of(folder / "inner")


def test_root_follows_no_link_of_another_account_to_a_file_of_its_own(base: Path, protected: Path) -> None:
    link = base / "tokenizer_config.json"
    link.symlink_to(protected / "canary")
    with open_original(link) as file:
        assert file.read() == b"root's"
    os.lchown(link, SERVICE, SERVICE)
    with pytest.raises(PermissionError):
        open_original(link)
    os.mkfifo(base / "pipe")
    with pytest.raises(PermissionError):
        open_original(base / "pipe")


# ── what root keeps for an import: a child that links and removes the originals ──────────────────


@pytest.fixture
def shelf(base: Path, monkeypatch: pytest.MonkeyPatch, make_model: Callable[..., Path]) -> Path:
    """The service's models folder. This Python may be in root's home, so what an import imports is imported before."""
    asyncio.run(import_m(base / "warm", make_model()))
    shutil.rmtree(base / "warm")
    folder = base / "models"
    folder.mkdir()
    os.chown(folder, SERVICE, SERVICE)
    monkeypatch.setattr(privileges, "_check_python", lambda _uid, _folder: None)
    return folder


async def import_m(models: Path, file: Path, *, move: bool = False) -> None:
    async for _ in import_(Catalogue(models), file, name="m", move=move):
        pass


def imported_by_root(shelf: Path, file: Path, *, move: bool) -> int:
    """The exit code of a child that imports, since it gives root up for good."""
    return wait(forked(lambda: asyncio.run(import_m(shelf, file, move=move))))


@pytest.mark.parametrize("move", [False, True])
@pytest.mark.parametrize(("mode", "linked"), [(0o644, True), (0o600, False)])
def test_roots_file_is_linked_where_the_service_may_read_it(
    base: Path, shelf: Path, make_model: Callable[..., Path], mode: int, *, linked: bool, move: bool
) -> None:
    """A model has gigabytes: `sudo exo-rkllm import --move` must neither need them twice nor leave the original."""
    (base / "root").mkdir(mode=0o700)
    file = Path(shutil.move(make_model(reply="x"), base / "root/m.rkllm"))
    file.chmod(mode)
    before, body = file.stat(), file.read_bytes()
    assert imported_by_root(shelf, file, move=move) == 0
    entry = shelf / "m/m.rkllm"
    assert entry.read_bytes() == body
    assert (entry.stat().st_ino == before.st_ino) == linked
    assert entry.stat().st_uid == (0 if linked else SERVICE)
    assert file.exists() != move


def test_child_that_stays_root_does_nothing_else(base: Path, shelf: Path, protected: Path) -> None:
    (shelf / "other").mkdir()  # root's
    file = protected / "m.rkllm"

    def attempts() -> None:
        with closing(Originals(move=False)) as originals:
            original = originals.open(file)
            parent = os.open(protected, os.O_PATH)
            originals.give_up_root(shelf)
            assert os.geteuid() == SERVICE
            for target in (shelf / "other/a", shelf / "../b"):  # a folder that is not the service's
                with pytest.raises(PermissionError):
                    originals.link(original, target)
            root = originals._root
            assert root is not None
            for name in ("a", "x/y", "../z"):  # whatever a hijacked import would ask for
                with pytest.raises(PermissionError):
                    originals._ask(root, original, name, [parent])
            with pytest.raises(PermissionError):
                originals.remove(original)  # which nobody asked for
            originals.link(original, shelf / "own")
            with pytest.raises(FileExistsError):
                originals.link(original, shelf / "own")

    assert wait(forked(attempts)) == 0
    assert (shelf / "own").samefile(file)
    assert not list((shelf / "other").iterdir())
    assert sorted(path.name for path in base.iterdir()) == ["models", "protected"]


def test_original_that_was_replaced_meanwhile_is_kept(base: Path, shelf: Path, protected: Path) -> None:
    file = protected / "m.rkllm"

    def attempt() -> None:
        with closing(Originals(move=True)) as originals:
            original = originals.open(file)
            file.rename(protected / "moved")
            file.write_text("another")
            originals.give_up_root(shelf)
            with pytest.raises(FileNotFoundError):
                originals.remove(original)
            originals.link(original, shelf / "own")  # still the file that was opened

    assert wait(forked(attempt)) == 0
    assert file.read_text() == "another"
    assert (shelf / "own").samefile(protected / "moved")
