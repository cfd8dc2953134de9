"""For whom access is judged: the user of the command, or another one, for whom root may ask."""

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
class UserIdentity:
    name: str
    uid: int
    groups: frozenset[int]
    own: bool  # it is this process, so the kernel can be asked

    def may_use(self, path: Path) -> bool:
        """Whether it may read and write the file; for other users by the mode alone, without access lists."""
        if self.own:
            return os.access(path, os.R_OK | os.W_OK, effective_ids=True)
        try:
            status = path.stat()
        except OSError:
            return False
        if self.uid == 0:
            return True
        if status.st_uid == self.uid:
            needed = stat.S_IRUSR | stat.S_IWUSR
        elif status.st_gid in self.groups:
            needed = stat.S_IRGRP | stat.S_IWGRP
        else:
            needed = stat.S_IROTH | stat.S_IWOTH
        return status.st_mode & needed == needed


def current_identity() -> UserIdentity:
    uid = os.geteuid()
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = str(uid)
    return UserIdentity(name, uid, frozenset({os.getegid(), *os.getgroups()}), own=True)


def identity_of(name: str) -> UserIdentity:
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise UsageError(f"There is no user {name}.", "getent passwd lists them") from None
    if entry.pw_uid == os.geteuid():
        return current_identity()
    groups = frozenset(os.getgrouplist(name, entry.pw_gid))
    return UserIdentity(name, entry.pw_uid, groups, own=False)


def identity_for(name: str | None) -> UserIdentity:
    """The named user, else the current one. Root, who may do everything, stands for the service if that exists."""
    if name is not None:
        return identity_of(name)
    if os.geteuid() == 0:
        try:
            pwd.getpwnam(SERVICE_USER)
        except KeyError:
            return current_identity()
        return identity_of(SERVICE_USER)
    return current_identity()


def group_name(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)
