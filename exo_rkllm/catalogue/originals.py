"""The files that an import takes over, linked and removed with the rights of whoever asked for the import.

`sudo exo-rkllm import` gives root up before it writes (`privileges`), and may then neither link root's files nor remove
them. A child that stays root does both for it, and can do nothing else: it knows only the files that were opened
before, links them only into folders of the account that the import became, and removes them only where they are to be
moved, by a name that still leads to its file.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NoReturn

from exo_rkllm.privileges import account_for, give_up_root, open_original

LONGEST = 4096  # bytes of a message
NUMBER = 4  # bytes of a file's number before a name, and of an error's as the answer


@dataclass(frozen=True, slots=True)
class Original:
    """A file as it was opened, and a descriptor of the folder where it has its name."""

    path: Path
    file: IO[bytes]
    parent: int

    def link(self, folder: int, name: str) -> None:
        """A second name for the file itself, even if another one has taken its path meanwhile."""
        os.link(f"/proc/self/fd/{self.file.fileno()}", name, dst_dir_fd=folder)

    def remove(self) -> None:
        name = self.path.name
        if not os.path.samestat(os.stat(name, dir_fd=self.parent), os.fstat(self.file.fileno())):
            raise FileNotFoundError(errno.ENOENT, "another file has taken its name", str(self.path))
        os.unlink(name, dir_fd=self.parent)


class Originals:
    """The files of one import. All are opened before `give_up_root`; `link` and `remove` raise an OSError.

    `move`: whether they may be removed.
    """

    def __init__(self, *, move: bool) -> None:
        self._move = move
        self._closing = ExitStack()
        self._files: list[Original] = []
        self._root: socket.socket | None = None

    def close(self) -> None:
        self._closing.close()

    def open(self, path: Path) -> Original:
        """Raises an OSError for what is no plain file of its owner's."""
        file = self._closing.enter_context(open_original(path))
        parent = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._closing.callback(os.close, parent)
        self._files.append(Original(path, file, parent))
        return self._files[-1]

    def give_up_root(self, folder: Path) -> None:
        """As `privileges.give_up_root`, with a child that stays root for these files."""
        account = account_for(folder)
        if account is not None:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            child = os.fork()
            if child == 0:
                ours.close()
                _stay_root(theirs, self._files, account, move=self._move)
            theirs.close()
            self._root = ours
            self._closing.callback(os.waitpid, child, 0)
            self._closing.callback(ours.close)
        give_up_root(folder)

    def link(self, original: Original, target: Path) -> None:
        folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if self._root is None:
                original.link(folder, target.name)
            else:
                self._ask(self._root, original, target.name, [folder])
        finally:
            os.close(folder)

    def remove(self, original: Original) -> None:
        if self._root is None:
            original.remove()
        else:
            self._ask(self._root, original, "", [])

    def _ask(self, root: socket.socket, original: Original, name: str, folders: list[int]) -> None:
        number = self._files.index(original).to_bytes(NUMBER, "big")
        socket.send_fds(root, [number + os.fsencode(name)], folders)
        answer = root.recv(NUMBER)  # empty where the child is gone
        code = int.from_bytes(answer, "big") if answer else errno.EPIPE
        if code:
            raise OSError(code, os.strerror(code), str(original.path))


def _stay_root(asked: socket.socket, files: list[Original], account: int, *, move: bool) -> NoReturn:
    """The child: a message is a file's number and the name of a link, or no name for the original to be removed."""
    try:  # whatever happens, this copy of the import never goes on as one
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # it ends when the import does
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        while True:
            message, folders, _flags, _address = socket.recv_fds(asked, LONGEST, 1)
            if not message:
                break
            try:
                number, name = int.from_bytes(message[:NUMBER], "big"), os.fsdecode(message[NUMBER:])
                _obey(files[number], name, folders, account, move=move)
                code = 0
            except OSError as error:
                code = error.errno or errno.EIO
            finally:
                for folder in folders:
                    os.close(folder)
            asked.send(code.to_bytes(NUMBER, "big"))
    finally:
        os._exit(0)


def _obey(original: Original, name: str, folders: list[int], account: int, *, move: bool) -> None:
    if not name and move:
        original.remove()
    elif name and "/" not in name and [os.fstat(folder).st_uid for folder in folders] == [account]:
        original.link(folders[0], name)
    else:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
