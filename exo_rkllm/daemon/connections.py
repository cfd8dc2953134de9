"""Accepting connections, and closing those that only take up room.

asyncio's own server answers a lack of descriptors with a log line for each connection that waits, thousands a second,
and aiohttp's limits differ between its versions (3.14 keeps an idle connection for an hour). Here both are ours.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import resource
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from aiohttp import web

log = logging.getLogger(__name__)

OUT_OF_DESCRIPTORS = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
PAUSE = 1.0
SECONDS_BETWEEN_LINES = 60.0


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Seconds that a connection may take for a request's header, between two parts of a body, and between requests."""

    header: float = 30.0
    body: float = 30.0
    idle: float = 75.0


LIMITS = ConnectionLimits()


def most_connections() -> int:
    """Three quarters of the descriptors: models, logs and the watchdog's messages need some, too."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 30 if soft == resource.RLIM_INFINITY else max(soft * 3 // 4, 1)


class Connections:
    """All connections of a daemon."""

    def __init__(self, limits: ConnectionLimits | None = None) -> None:
        self.limits = limits or LIMITS
        self.open = 0
        self._most = most_connections()
        self._last_line = -SECONDS_BETWEEN_LINES

    @property
    def full(self) -> bool:
        return self.open >= self._most

    def report(self, reason: str) -> None:
        """One line a minute, however many connections wait."""
        now = time.monotonic()
        if now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            log.warning("New connections wait: %s, and %d are open.", reason, self.open)


class ConnectionListener:
    """Accepts on one socket, which it owns, until it is closed."""

    def __init__(self, sock: socket.socket, server: Callable[[], Any], connections: Connections) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._server = server
        self._connections = connections
        # The control socket stays usable however many connections the network holds.
        self._has_limit = sock.family != socket.AF_UNIX
        self._task = asyncio.create_task(self._accept())

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._sock.close()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if self._has_limit and self._connections.full:
                self._connections.report("the limit of open files allows no more")
                await asyncio.sleep(PAUSE)
                continue
            try:
                connection, _ = await loop.sock_accept(self._sock)
            except OSError as error:
                if error.errno in OUT_OF_DESCRIPTORS:
                    self._connections.report(error.strerror or "there are no descriptors")
                    await asyncio.sleep(PAUSE)
                continue
            try:
                await loop.connect_accepted_socket(self._protocol, connection)
            except OSError:  # it has left already
                connection.close()

    def _protocol(self) -> asyncio.Protocol:
        return WatchedProtocol(self._server(), self._connections)  # type: ignore[return-value]  # it is by its methods


class WatchedProtocol:
    """Stands between a transport and aiohttp's protocol, and closes the connection when its time is over."""

    def __init__(self, inner: Any, connections: Connections) -> None:
        self._inner = inner
        self._connections = connections
        self._loop = asyncio.get_running_loop()
        self._transport: Any = None
        self._timer: asyncio.TimerHandle | None = None
        self._request: web.Request | None = None
        self._since = self._last_data = self._loop.time()
        self._in_header = True  # also before the first byte
        self._unsent = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._connections.open += 1
        self._inner.connection_made(transport)
        self._check()

    def connection_lost(self, error: Exception | None) -> None:
        self._connections.open -= 1
        if self._timer is not None:
            self._timer.cancel()
        self._inner.connection_lost(error)

    def data_received(self, data: bytes) -> None:
        self._last_data = self._loop.time()
        if self._request is None and not self._in_header:
            self._in_header, self._since = True, self._last_data
        self._inner.data_received(data)

    @contextmanager
    def handling(self, request: web.Request) -> Iterator[None]:
        self._request, self._in_header = request, False
        try:
            yield
        finally:
            self._request, self._since = None, self._loop.time()

    def _check(self) -> None:
        now = self._loop.time()
        if self._deadline() <= now:
            log.debug("A connection is closed: its client sent nothing for too long.")
            self._transport.abort()
            return
        self._timer = self._loop.call_later(min(self._connections.limits.header / 6, 5.0), self._check)

    def _deadline(self) -> float:
        limits = self._connections.limits
        if self._request is not None:
            return float("inf") if self._request.content.is_eof() else self._last_data + limits.body
        unsent = self._transport.get_write_buffer_size()
        if unsent != self._unsent:  # the client still takes the last answer
            self._unsent, self._since = unsent, self._loop.time()
        return self._since + (limits.header if self._in_header else limits.idle)


@web.middleware
async def watched(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Tells the connection while it has a request: an answer may take as long as it needs."""
    protocol = None if request.transport is None else request.transport.get_protocol()
    with protocol.handling(request) if isinstance(protocol, WatchedProtocol) else nullcontext():
        return await handler(request)
