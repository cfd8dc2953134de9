"""For whom access is judged: whoever runs the command, or another user, as root may ask."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path

from exo_rkllm.errors import UsageError

SERVICE_USER = "exo-rkllm"


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    name: str
    uid: int
    groups: frozenset[int]
    own: bool  # this process is it, so the kernel can be asked

    def may_use(self, path: Path) -> bool:
        """Read and write; for others by the mode alone, which knows nothing of access lists."""
        if self.own:
            return os.access(path, os.R_OK | os.W_OK, effective_ids=True)
        try:
            seen = path.stat()
        except OSError:
            return False
        if self.uid == 0:
            return True
        if seen.st_uid == self.uid:
            wanted = stat.S_IRUSR | stat.S_IWUSR
        elif seen.st_gid in self.groups:
            wanted = stat.S_IRGRP | stat.S_IWGRP
        else:
            wanted = stat.S_IROTH | stat.S_IWOTH
        return seen.st_mode & wanted == wanted


def current() -> ModelIdentity:
    uid = os.geteuid()
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = str(uid)
    return ModelIdentity(name, uid, frozenset({os.getegid(), *os.getgroups()}), own=True)


def named(name: str) -> ModelIdentity:
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise UsageError(f"There is no user {name}.", "getent passwd lists them") from None
    if entry.pw_uid == os.geteuid():
        return current()
    groups = frozenset(os.getgrouplist(name, entry.pw_gid))
    return ModelIdentity(name, entry.pw_uid, groups, own=False)


def judged(name: str | None) -> ModelIdentity:
    """Root, to whom nothing is forbidden, stands for the service where there is one."""
    if name is not None:
        return named(name)
    if os.geteuid() == 0:
        try:
            pwd.getpwnam(SERVICE_USER)
        except KeyError:
            return current()
        return named(SERVICE_USER)
    return current()


def group_name(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)
