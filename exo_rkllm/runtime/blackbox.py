"""What the library prints, kept in an anonymous memory file: its only error details come on stdout (reference 4).

A pipe would block the library while nobody reads, and a file on disk outlives a crash. Both processes hold the same
memory file: the child reads the lines of a call that failed, and after a crash the parent reads what is left.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

STDOUT, STDERR = 1, 2
IOLBF = 1
# What one reading gives at most. Init prints some 20 lines, at RKLLM_LOG_LEVEL=2 some hundred.
BOUND = 1 << 20
PUNCH_HOLE_KEEP_SIZE = 3
GAP = "... (more was printed than is kept)"
# Everything but tab and line feed that would do something to a terminal or a journal.
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


class LogTail(Protocol):
    """What a session needs: the lines of one call, without taking them from whoever collects the log."""

    def mark(self) -> int: ...

    def since(self, mark: int) -> list[str]: ...


class BlackBox:
    """One end of the memory file `fd`. Where that is this process's stdout, C prints to it line by line from now on.

    `new_lines` takes lines out: their memory goes back to the kernel and nobody reads them twice, in whichever process.
    `mark` and `since` only look.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._libc = ctypes.CDLL(None)
        self._read_up_to = 0
        # stdout and stderr share the file, so each write has to go to its end.
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_APPEND)
        if _is_stdout(fd):
            stdout = ctypes.c_void_p.in_dll(self._libc, "stdout")
            self._libc.setvbuf(stdout, None, IOLBF, ctypes.c_size_t(0))

    @classmethod
    def create(cls) -> BlackBox:
        return cls(os.memfd_create("rkllm-log", os.MFD_CLOEXEC))

    def mark(self) -> int:
        """The end of what was printed so far, for `since`."""
        self._libc.fflush(None)
        return os.fstat(self.fd).st_size

    def since(self, mark: int) -> list[str]:
        return self._lines(mark, self.mark())

    def new_lines(self) -> list[str]:
        """What nobody has taken yet."""
        size = self.mark()
        if size == self._read_up_to:
            return []
        lines = self._lines(self._first_data(size), size)
        # A hole, not a truncation: a thread that prints meanwhile must not lose its line. Whole pages only are given
        # back, so it begins at the page that the last one ended in.
        start = self._read_up_to - self._read_up_to % mmap.PAGESIZE
        offset, length = ctypes.c_int64(start), ctypes.c_int64(size - start)
        self._libc.fallocate(self.fd, PUNCH_HOLE_KEEP_SIZE, offset, length)
        self._read_up_to = size
        return lines

    def close(self) -> None:
        os.close(self.fd)

    def _first_data(self, size: int) -> int:
        """Behind what another end has taken."""
        try:
            return os.lseek(self.fd, self._read_up_to, os.SEEK_DATA)
        except OSError:
            return size

    def _lines(self, start: int, end: int) -> list[str]:
        """The last BOUND bytes of a range; the rest of a page that was taken reads as NUL."""
        cut = end - start > BOUND
        data = os.pread(self.fd, min(end - start, BOUND), max(start, end - BOUND)).lstrip(b"\0")
        lines = [CONTROL.sub("\ufffd", line) for line in data.decode(errors="replace").split("\n")]
        return [GAP] * cut + [line for line in lines[cut:] if line]


def _is_stdout(fd: int) -> bool:
    try:
        return os.path.sameopenfile(fd, STDOUT)
    except OSError:  # a daemon without stdout
        return False


@contextmanager
def redirected() -> Iterator[BlackBox]:
    """This process's stdout and stderr go into a box meanwhile: for the library without a child process."""
    box = BlackBox.create()
    originals = os.dup(STDOUT), os.dup(STDERR)
    _point_at((box.fd, box.fd), box)
    try:
        yield box
    finally:
        _point_at(originals, box)
        for fd in originals:
            os.close(fd)
        box.close()


def _point_at(targets: tuple[int, int], box: BlackBox) -> None:
    """What is still buffered belongs to where the descriptors point now."""
    sys.stdout.flush()
    sys.stderr.flush()
    box.mark()
    for fd, number in zip(targets, (STDOUT, STDERR), strict=True):
        os.dup2(fd, number)
