"""Small reads of kernel files that may be missing, forbidden, huge, binary, or gone a moment later.

Every file is opened read-only, and none that powers the NPU up: debugfs `freq` does, `volt` may crash the kernel
(npu-platform 3.1), and so does every ioctl on a device node (3.5), which is why no device node is opened either.
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
# Names below the driver's folder that must not be read: see above.
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


def text(path: Path, limit: int = LIMIT) -> str | None:
    """An attribute without its newline; None if it cannot be read."""
    try:
        return read(path, limit).decode("utf-8", "replace").strip()
    except (OSError, ValueError):
        return None


def number(path: Path) -> int | None:
    """A whole decimal attribute; anything else is None, never 0."""
    return whole(text(path))


def whole(text: str | None) -> int | None:
    # int() would also take underscores, blanks and other scripts' digits, and raises an error for thousands of digits
    return int(text) if text is not None and re.fullmatch(r"-?[0-9]{1,18}", text) else None


def strings(path: Path) -> tuple[str, ...]:
    """A device-tree property: strings that end in NUL; empty if it cannot be read."""
    try:
        parts = read(path, 4096).split(b"\0")
    except (OSError, ValueError):
        return ()
    return tuple(part.decode("utf-8", "replace") for part in parts if part)


def names(folder: Path) -> list[str]:
    """A folder's entries in a stable order; empty if it cannot be listed."""
    try:
        return sorted(path.name for path in folder.iterdir())
    except OSError:
        return []


def properties(path: Path) -> dict[str, str]:
    """The lines `KEY=value` of a `uevent` file."""
    return dict(line.split("=", 1) for line in (text(path) or "").splitlines() if "=" in line)


def link_name(path: Path) -> str:
    """The last part of a link's target, by which sysfs names a device's driver; empty without a link."""
    try:
        return path.readlink().name
    except OSError:
        return ""


def clean(words: str, longest: int = 80) -> str:
    """A board's own words in one printable line, for a terminal, a log or a label."""
    visible = "".join(character if character.isprintable() else " " for character in words)
    visible = " ".join(visible.split())
    return visible if len(visible) <= longest else visible[: longest - 1] + "…"


def numbered(folder: Path, prefix: str) -> Iterator[Path]:
    """`prefix0`, `prefix1`, ... in the order of their numbers."""
    matches = [re.fullmatch(f"{re.escape(prefix)}([0-9]{{1,4}})", name) for name in names(folder)]
    return (folder / name for _, name in sorted((int(match[1]), match[0]) for match in matches if match))


def exists(path: Path) -> bool:
    """Whether it exists, as far as this user can tell."""
    try:
        return path.exists()
    except OSError:
        return False
