"""Tells when a file that is looked for in several places appears, changes or goes: inotify(7), nothing polls.

A folder that does not exist yet cannot be watched, so its nearest ancestor is, for the next part of the path.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

CLOSE_WRITE, MOVED_FROM, MOVED_TO, CREATE, DELETE = 0x8, 0x40, 0x80, 0x100, 0x200
MASK = CLOSE_WRITE | MOVED_FROM | MOVED_TO | CREATE | DELETE
HEAD = struct.Struct("iIII")
# A library of 8 MB that is being copied is looked at when it is whole, and a package's many files together.
SETTLE = 0.3


class LibraryWatch:
    """`changed` is called on the loop a moment after the last event that concerns one of the paths."""

    def __init__(self, paths: Sequence[Path], changed: Callable[[], None]) -> None:
        self._paths = paths
        self._changed = changed
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
        """Adding a folder twice gives the same number, so this may be done after every event."""
        self._names = {}
        for path in self._paths:
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
        concerned = False
        while data:
            number, _, _, length = HEAD.unpack_from(data)
            name = data[HEAD.size : HEAD.size + length].rstrip(b"\0")
            concerned = concerned or os.fsdecode(name) in self._names.get(number, ())
            data = data[HEAD.size + length :]
        if concerned:
            self._watch()
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_later(SETTLE, self._changed)
