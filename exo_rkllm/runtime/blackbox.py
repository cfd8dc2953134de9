"""What the library prints, kept in a memory file: its only error details go to stdout.

The daemon makes the file and hands it to the child as its fd 1 and 2. Nothing can block on it, as on a pipe that nobody
reads, and it is still there when the child is not.
"""

from __future__ import annotations

import ctypes
import os

LINE_BUFFERED = 1  # _IOLBF of glibc and musl
# Past this size, what was read already is cut off the file.
KEPT = 1 << 20
# At most so much is looked at in one go; megabytes of garbage have their middle left out.
READ = 1 << 18


class BlackBox:
    """One reader's view of the file. Both ends may have one; only the child's cuts the file."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.offset = 0

    def buffer_by_line(self) -> None:
        """The C library buffers a file by 4 KiB otherwise, and a crash would take the last words with it."""
        libc = ctypes.CDLL(None)
        libc.setvbuf(ctypes.c_void_p.in_dll(libc, "stdout"), None, LINE_BUFFERED, 0)

    def peek(self) -> list[str]:
        """The lines since the last `new_lines`, which will give them once more."""
        return self._lines(os.fstat(self._fd).st_size)

    def new_lines(self) -> list[str]:
        """The lines since the last call."""
        size = os.fstat(self._fd).st_size
        lines = self._lines(size)
        self.offset = size
        return lines

    def cut(self) -> None:
        """Give back the memory of what was read; for the only writer, between two calls into the library."""
        if self.offset > KEPT and self.offset == os.fstat(self._fd).st_size:
            os.ftruncate(self._fd, 0)
            self.offset = 0

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _lines(self, size: int) -> list[str]:
        if size - self.offset <= READ:
            return _split(os.pread(self._fd, size - self.offset, self.offset))
        half = READ // 2
        left_out = f"[{size - self.offset - READ} bytes left out]"
        head, tail = os.pread(self._fd, half, self.offset), os.pread(self._fd, half, size - half)
        return [*_split(head), left_out, *_split(tail)]


def _split(data: bytes) -> list[str]:
    return [line for line in data.decode("utf-8", "replace").splitlines() if line.strip()]
