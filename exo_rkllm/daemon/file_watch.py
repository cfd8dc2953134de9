"""Reports when files that are looked for in several places appear, change or go: inotify(7), nothing polls.

A folder that does not exist yet cannot be watched, so its nearest ancestor is, for the next part of the path.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import struct
from collections.abc import Callable, Iterable
from pathlib import Path

CLOSE_WRITE, MOVED_FROM, MOVED_TO, CREATE, DELETE = 0x8, 0x40, 0x80, 0x100, 0x200
MASK = CLOSE_WRITE | MOVED_FROM | MOVED_TO | CREATE | DELETE
HEAD = struct.Struct("iIII")
# As a path's last part: everything in the folder whose name does not begin with a dot.
ANY = "*"
# A library of 8 MB that is being copied is looked at when it is whole, and a package's many files together.
SETTLE = 0.3


class FileWatch:
    """`on_change` is called on the loop SETTLE seconds after the last event that is about one of `paths()`.

    `paths` is asked again after each such event. Raises OSError where the kernel gives no inotify.
    """

    def __init__(self, paths: Callable[[], Iterable[Path]], on_change: Callable[[], None]) -> None:
        self._paths = paths
        self._on_change = on_change
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        self._names: dict[int, set[str]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._fd, self._readable)
        self._watch()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._loop.remove_reader(self._fd)
        os.close(self._fd)

    def _watch(self) -> None:
        """The kernel returns the same number for a folder that is watched already."""
        self._names = {}
        for path in self._paths():
            folder, name = path.parent, path.name
            while not folder.is_dir():
                folder, name = folder.parent, folder.name
            number = self._libc.inotify_add_watch(self._fd, os.fsencode(folder), MASK)
            if number >= 0:
                self._names.setdefault(number, set()).add(name)

    def _readable(self) -> None:
        try:
            data = os.read(self._fd, 65536)
        except BlockingIOError:
            return
        relevant = False
        while data:
            number, _, _, length = HEAD.unpack_from(data)
            name = os.fsdecode(data[HEAD.size : HEAD.size + length].rstrip(b"\0"))
            names = self._names.get(number, set())
            relevant = relevant or name in names or (ANY in names and not name.startswith("."))
            data = data[HEAD.size + length :]
        if relevant:
            self._watch()
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_later(SETTLE, self._settle)

    def _settle(self) -> None:
        self._timer = None
        self._watch()
        self._on_change()
