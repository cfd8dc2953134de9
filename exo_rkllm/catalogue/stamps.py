"""Whether files changed since they were read."""

from __future__ import annotations

from pathlib import Path


def stamp_of(*paths: Path) -> tuple[int, ...]:
    """A value that changes whenever one of the files does."""
    return tuple(number for path in paths for number in _stat(path))


def _stat(path: Path) -> tuple[int, ...]:
    try:
        stat = path.stat()
    except OSError:
        return (0,)
    return stat.st_ino, stat.st_mtime_ns, stat.st_size
