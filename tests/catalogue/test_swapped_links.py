"""What root does in the service's folders, while the service's account swaps everything there for links."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from exo_rkllm.errors import ConfigError
from exo_rkllm.privileges import open_original, owner_of
from tests.catalogue.swapping import SERVICE

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give up root's rights")
TRIES = 2000
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
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    made = [base / "state", *(base / "state").rglob("*")]
    assert {(path.lstat().st_uid, path.lstat().st_gid) for path in made} == {(SERVICE, SERVICE)}
    ends = json.loads(done.stdout)
    assert sum(ends.values()) == TRIES
    assert ends.get("import 0"), f"no import was ever faster than the intruder: {ends}"
    assert set(ends) <= {f"{verb} {code}" for verb in ("import", "rm", "install") for code in range(3)}, ends
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
