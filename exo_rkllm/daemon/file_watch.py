"""Reports when files that are looked for in several places appear, change or go.

A folder that does not exist yet cannot be watched, so its nearest ancestor is, for the next part of the path.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path

from exo_rkllm.files.inotify import OVERFLOW, Inotify

# As a path's last part: everything in the folder whose name does not begin with a dot.
ANY = "*"
# A library of 8 MB that is being copied is looked at when it is whole, and a package's many files together.
SETTLE = 0.3


class Settling:
    """Calls `function` on the loop SETTLE seconds after the last of the calls that come one upon the other."""

    def __init__(self, function: Callable[[], None]) -> None:
        self._function = function
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    def __call__(self) -> None:
        self.cancel()
        self._timer = self._loop.call_later(SETTLE, self._function)

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class FileWatch:
    """`on_change` is called on the loop SETTLE seconds after the last event that is about one of `paths()`.

    `paths` is asked again after each such event. Raises OSError where the kernel gives no inotify.
    """

    def __init__(self, paths: Callable[[], Iterable[Path]], on_change: Callable[[], None]) -> None:
        self._paths = paths
        self._on_change = on_change
        self._inotify = Inotify()
        self._names: dict[int, set[str]] = {}
        self._settling = Settling(self._settle)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._inotify.fd, self._readable)
        self._watch()

    def close(self) -> None:
        self._settling.cancel()
        self._loop.remove_reader(self._inotify.fd)
        self._inotify.close()

    def _watch(self) -> None:
        self._names = {}
        for path in self._paths():
            folder, name = path.parent, path.name
            while not folder.is_dir():
                folder, name = folder.parent, folder.name
            number = self._inotify.watch(folder)
            if number >= 0:
                self._names.setdefault(number, set()).add(name)

    def _readable(self) -> None:
        if any(self._relevant(number, name) for number, name in self._inotify.read()):
            self._watch()
            self._settling()

    def _relevant(self, number: int, name: str) -> bool:
        names = self._names.get(number, set())
        return number == OVERFLOW or name in names or (ANY in names and not name.startswith("."))

    def _settle(self) -> None:
        self._watch()
        self._on_change()
