"""Whether files changed since they were read."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

Stamp: TypeAlias = tuple[int, ...]


def stamp_of(*paths: Path) -> Stamp:
    """A value that changes whenever one of the files does; empty where none of them is there."""
    return tuple(number for path in paths for number in _stat(path))


def _stat(path: Path) -> Stamp:
    try:
        stat = path.stat()
    except OSError:
        return ()
    return stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_size
