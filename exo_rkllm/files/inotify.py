"""inotify(7): the kernel tells what changes in folders, and nothing polls."""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path

ATTRIB, CLOSE_WRITE, MOVED_FROM, MOVED_TO, CREATE, DELETE = 0x4, 0x8, 0x40, 0x80, 0x100, 0x200
MASK = CLOSE_WRITE | MOVED_FROM | MOVED_TO | CREATE | DELETE
HEAD = struct.Struct("iIII")
# The number of an event that says that others were lost: too many came before anybody read them.
OVERFLOW = -1


class Inotify:
    """Raises OSError where the kernel gives no instance. `fd` is readable while there are events."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.fd: int = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self.fd < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def watch(self, folder: Path, mask: int = MASK) -> int:
        """The number that the folder's events have, the same for one that is watched already; below 0 if it cannot be
        watched."""
        number: int = self._libc.inotify_add_watch(self.fd, os.fsencode(folder), mask)
        return number

    def read(self) -> list[tuple[int, str]]:
        """The number of the folder and the name in it, for each event since the last call. Never waits."""
        events: list[tuple[int, str]] = []
        try:
            while True:
                data = os.read(self.fd, 65536)
                while data:
                    number, _, _, length = HEAD.unpack_from(data)
                    events.append((number, os.fsdecode(data[HEAD.size : HEAD.size + length].rstrip(b"\0"))))
                    data = data[HEAD.size + length :]
        except BlockingIOError:
            return events

    def close(self) -> None:
        os.close(self.fd)
