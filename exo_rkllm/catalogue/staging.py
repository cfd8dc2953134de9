"""Hidden folders of a models folder, in which entries are put together and taken away, so that none is half there."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from exo_rkllm.catalogue import names
from exo_rkllm.errors import ConfigError, ModelExists, PullError

INCOMING = ".incoming-"
REPLACED = ".replaced-"
TRASH = ".trash-"
PULL = ".pull-"
LOCK = ".lock"
PULLS_KEPT = 7 * 24 * 3600.0
RESERVE = 64 * 1024 * 1024  # bytes of the disk that stay free


@contextlib.contextmanager
def writing(directory: Path) -> Iterator[None]:
    """Turn an OSError into a ConfigError that names the folder and the command that shows its owner."""
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"The models folder {directory} cannot be changed: {error.strerror}.",
            f"ls -ld {directory}; the service's models are imported with sudo, and pulled by members of its group",
        ) from None


def check_room(folder: Path, need: int) -> None:
    """Raise a PullError unless `need` bytes fit on the folder's disk, and RESERVE stays free.

    Asked before each part that is written, since others write to the disk, too.
    """
    free = shutil.disk_usage(folder).free
    if need + RESERVE > free:
        raise PullError(
            f"The file needs {need / 1e9:.2f} GB and {folder} has {free / 1e9:.2f} GB free.",
            "Free some with: exo-rkllm rm MODEL, or set models.directory to another disk.",
        )


class Stage:
    """A hidden folder where an entry is put together. Its lock is held while the process that makes it lives."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with writing(folder.parent):
            folder.mkdir(parents=True, exist_ok=True)
            self._handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._handle)
            raise ModelExists(
                "This model is just being fetched or imported.", "Wait for it: exo-rkllm models"
            ) from None

    def close(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


def is_abandoned(folder: Path) -> bool:
    try:
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(handle)
    return True


def clean(directory: Path, now: float) -> None:
    """Take away what a crash or a power cut left: half-made entries, removed ones, pulls nobody resumed."""
    if not directory.is_dir():
        return
    for folder in list(directory.iterdir()):
        if folder.is_symlink() or not folder.is_dir():
            continue
        name = folder.name
        if name.startswith(REPLACED):
            target = directory / name.removeprefix(REPLACED)
            if names.valid_id(target.name) and not target.exists():
                folder.rename(target)
                continue
        elif name.startswith(PULL):
            if now - folder.stat().st_mtime < PULLS_KEPT or not is_abandoned(folder):
                continue
        elif not name.startswith((INCOMING, TRASH)) or (name.startswith(INCOMING) and not is_abandoned(folder)):
            continue
        shutil.rmtree(folder, ignore_errors=True)
