"""Small reads of kernel files that may be missing, forbidden, huge, binary, or gone a moment later.

Everything here opens read-only and never a file that powers the NPU up: debugfs `freq` does, `volt` may crash the
kernel (npu-platform 3.1), and every ioctl on the device nodes does (3.5), so no device node is opened either.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

# Longest real file: /proc/interrupts of an 8-CPU board, some 15 KiB; a board with 32 rows of GPIO lines doubles it.
LIMIT = 256 * 1024
# Names below the driver's folder that a monitor leaves alone.
WAKING = ("freq", "volt")
REASONS = {
    errno.ENOENT: "there is no {path}",
    errno.ENOTDIR: "there is no {path}",
    errno.EACCES: "{path} may not be read by this user",
    errno.EPERM: "{path} may not be read by this user",
    errno.ENODEV: "the device behind {path} is gone",
}


def read(path: Path, limit: int = LIMIT) -> bytes:
    """The file's bytes up to `limit`; a pipe or device in its place is an OSError, since reading it could block."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "not a plain file", str(path))
        chunks = []
        while limit > 0 and (chunk := os.read(handle, min(limit, 65536))):
            chunks.append(chunk)
            limit -= len(chunk)
        return b"".join(chunks)
    finally:
        os.close(handle)


def reason(error: OSError, path: Path, root: Path) -> str:
    """Half a sentence that names the path as the board has it, whatever root it was read below."""
    shown = "/" + str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
    known = REASONS.get(error.errno or 0)
    return known.format(path=shown) if known else f"{shown} cannot be read ({error.strerror or error})"


def text(path: Path) -> str | None:
    """An attribute without its newline; None where it cannot be read."""
    try:
        return read(path).decode("utf-8", "replace").strip()
    except (OSError, ValueError):
        return None


def number(path: Path) -> int | None:
    """A whole decimal attribute; anything else is None, never 0."""
    return whole(text(path))


def whole(found: str | None) -> int | None:
    # int() would also take underscores, blanks and other scripts' digits, and refuses thousands of digits by an error
    return int(found) if found is not None and re.fullmatch(r"-?[0-9]{1,18}", found) else None


def strings(path: Path) -> tuple[str, ...]:
    """A device-tree property: texts that end in NUL."""
    try:
        parts = read(path, 4096).split(b"\0")
    except (OSError, ValueError):
        return ()
    return tuple(part.decode("utf-8", "replace") for part in parts if part)


def names(folder: Path) -> list[str]:
    """Entries of a folder in a stable order; none where it cannot be listed."""
    try:
        return sorted(path.name for path in folder.iterdir())
    except OSError:
        return []


def properties(path: Path) -> dict[str, str]:
    """A `uevent` file's lines."""
    return dict(line.split("=", 1) for line in (text(path) or "").splitlines() if "=" in line)


def link_name(path: Path) -> str:
    """Last part of where a link points, which is how sysfs names a device's driver; empty where there is none."""
    try:
        return path.readlink().name
    except OSError:
        return ""


def clean(found: str, longest: int = 80) -> str:
    """A board's own words made fit for one line of a terminal, a log or a label."""
    visible = "".join(character if character.isprintable() else " " for character in found)
    visible = " ".join(visible.split())
    return visible if len(visible) <= longest else visible[: longest - 1] + "…"


def numbered(folder: Path, prefix: str) -> Iterator[Path]:
    """`prefix0`, `prefix1`, ... in the order of their numbers."""
    matches = [re.fullmatch(f"{re.escape(prefix)}([0-9]{{1,4}})", name) for name in names(folder)]
    found = sorted((int(match[1]), match[0]) for match in matches if match)
    return (folder / name for _, name in found)


def there(path: Path) -> bool:
    """Whether it exists, as far as this user may know."""
    try:
        return path.exists()
    except OSError:
        return False
