"""Root's rights, given up before anything is written where another account could swap a folder for a link.

`sudo exo-rkllm import` works in a folder of the service's user. Whatever that account does there meanwhile, the kernel
then lets the command change only what the account could change itself.
"""

from __future__ import annotations

import errno
import os
import pwd
import stat
from collections import deque
from pathlib import Path
from typing import IO

from exo_rkllm.errors import ConfigError

NOBODY = 65534
MAX_LINKS = 40  # as the kernel's own walk


def give_up_root(folder: Path) -> None:
    """Let the whole process become the owner of `folder` for good; nothing where only root can change or swap it.

    `folder` need not exist. Raises a ConfigError where others may change a folder of root's: there is nobody to become.
    What only root can read must be open by now.
    """
    uid = account_for(folder)
    if uid is None:
        return
    try:
        gid = pwd.getpwuid(uid).pw_gid or NOBODY
    except KeyError:
        gid = NOBODY
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    _check_python(uid, folder)


def account_for(folder: Path) -> int | None:
    """Who has to write in `folder` instead of this process; None where it may itself."""
    return owner_of(folder) or None if os.geteuid() == 0 else None


def _check_python(uid: int, folder: Path) -> None:
    """Modules that are imported later must be readable for the account, which they are not in root's home."""
    for module in (os.__file__, __file__):
        if not os.access(module, os.R_OK):
            raise ConfigError(
                f"Root may write in {folder} only as its owner (user id {uid}), who cannot read {module}.",
                f"sudo -u '#{uid}' exo-rkllm ..., with exo-rkllm installed where every user may read it",
            )


def open_original(path: Path) -> IO[bytes]:
    """A plain file to import; anything else is an OSError.

    Root follows another account's link only to that account's own file, or importing a folder of the service's would
    hand the service what only root may read.
    """
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    status = os.fstat(file.fileno())
    if stat.S_ISREG(status.st_mode) and (os.geteuid() != 0 or path.lstat().st_uid in (0, status.st_uid)):
        return file
    file.close()
    raise PermissionError(errno.EPERM, "it is no plain file of its owner's", str(path))


def owner_of(folder: Path) -> int:
    """The first account other than root that owns a part of the path to `folder`, itself included; 0 where none does.

    From that part on the account can lead the path elsewhere, so no other may write there, either.
    """
    place, parts, links = Path("/"), deque((Path.cwd() / folder).parts[1:]), 0
    while parts:
        part = parts.popleft()
        if part == "..":
            place = place.parent
            continue
        _check_closed(place, last=False)
        try:
            status = (place / part).lstat()
        except FileNotFoundError:
            return 0
        if status.st_uid != 0:
            return status.st_uid
        if stat.S_ISLNK(status.st_mode):
            links += 1
            if links > MAX_LINKS:
                raise ConfigError(f"{folder} is a link that leads to itself.", f"ls -l {place / part}")
            target = (place / part).readlink()
            parts.extendleft(reversed(target.parts[1:] if target.is_absolute() else target.parts))
            place = Path("/") if target.is_absolute() else place
        else:
            place /= part
    _check_closed(place, last=True)
    return 0


def _check_closed(folder: Path, *, last: bool) -> None:
    """In a folder with the sticky bit, such as /tmp, others cannot swap what is root's."""
    mode = folder.lstat().st_mode
    if mode & (stat.S_IWGRP | stat.S_IWOTH) and (last or not mode & stat.S_ISVTX):
        raise ConfigError(
            f"{folder} is root's, and other accounts may change it: root does not write there.",
            f"chmod go-w {folder}, or chown it to the one account that writes there",
        )
