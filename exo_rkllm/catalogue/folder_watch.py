"""Whether the models folder is still what it was when it was read, as the kernel tells."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

from exo_rkllm.files.inotify import ATTRIB, MASK, OVERFLOW, Inotify

# A repair may be one of owner and mode alone.
EVERYTHING = MASK | ATTRIB
# Of what another machine writes there, this one's kernel knows nothing.
SHARED = ("nfs", "cifs", "smb", "9p", "virtiofs", "fuse.", "ceph", "lustre", "gfs2", "ocfs2", "afs")


class FolderWatch:
    """One models folder, with the folders in it. Raises OSError where the kernel gives no inotify.

    `on_change` is called when something happened there, on the thread that noticed. `fd` is readable then; whoever
    waits for it calls `holds`, on any thread. One thread at a time calls `begin` and `add`.
    """

    def __init__(self, directory: Path, on_change: Callable[[], None]) -> None:
        self._directory = directory
        self._on_change = on_change
        self._inotify = Inotify()
        self._folders: set[int] = set()
        self._identity: tuple[int, int] | None = None
        self._changes = self._seen = 0
        self._complete = False  # everything that was read since `begin` is watched
        self._lock = threading.Lock()

    @property
    def fd(self) -> int:
        return self._inotify.fd

    def close(self) -> None:
        self._inotify.close()

    def begin(self) -> None:
        """The folder is about to be read: whatever happens from here on makes that stale."""
        self.holds()
        self._seen = self._changes
        self._folders = set()
        self._identity = self._look()
        self._complete = self._identity is not None and not is_shared(self._identity[0])
        self.add(self._directory)

    def add(self, folder: Path) -> None:
        """Before it is read."""
        number = self._inotify.watch(folder, EVERYTHING)
        self._complete = self._complete and number >= 0
        self._folders.add(number)

    def holds(self) -> bool:
        """Whether what was read since `begin` is as it was, by one call into the kernel and a stat of the folder.

        The stat is for another disk that is mounted over it, of which inotify says nothing.
        """
        with self._lock:  # what one thread has read of the kernel, no other may miss
            changed = any(self._relevant(number, name) for number, name in self._inotify.read())
            self._changes += changed
        if changed:
            self._on_change()
        return self._complete and self._changes == self._seen and self._look() == self._identity

    def _relevant(self, number: int, name: str) -> bool:
        return number == OVERFLOW or (number in self._folders and not name.startswith("."))

    def _look(self) -> tuple[int, int] | None:
        try:
            status = os.stat(self._directory)  # noqa: PTH116 - half the time of Path.stat, with each request
        except OSError:
            return None
        return status.st_dev, status.st_ino


def is_shared(device: int, mounts: Path = Path("/proc/self/mountinfo")) -> bool:
    """Whether other machines may write to that file system: proc_pid_mountinfo(5)."""
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    kinds = (line.partition(" - ")[2] for line in lines if line.split(" ", 3)[2] == number)
    return any(kind.startswith(SHARED) for kind in kinds)
