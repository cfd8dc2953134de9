"""Frames on their way to a child, which takes them when it can: nothing here waits for it."""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque

from exo_rkllm.runner import wire


class Outbox:
    """Sends in the order of `post`, and owns the descriptors of what is not sent yet."""

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
        self._loop = loop
        self._sock = sock
        self._frames: deque[tuple[bytes, tuple[int, ...]]] = deque()
        self._closed = False

    def post(self, data: bytes, fds: tuple[int, ...] = ()) -> None:
        """Closes `fds` once they are sent, or at once where nobody takes them any more."""
        if self._closed:
            _close(fds)
            return
        self._frames.append((data, fds))
        self._flush()

    def close(self) -> None:
        """Before the socket is closed."""
        self._closed = True
        self._loop.remove_writer(self._sock)
        for _, fds in self._frames:
            _close(fds)
        self._frames.clear()

    def _flush(self) -> None:
        while self._frames:
            data, fds = self._frames[0]
            try:
                sent = wire.send_some(self._sock, data, fds)
            except BlockingIOError:
                self._loop.add_writer(self._sock, self._flush)
                return
            except OSError:
                break  # the child is gone; its exit explains why
            _close(fds)
            if sent == len(data):
                self._frames.popleft()
            else:
                self._frames[0] = (data[sent:], ())
        self._loop.remove_writer(self._sock)


def _close(fds: tuple[int, ...]) -> None:
    for fd in fds:
        os.close(fd)
