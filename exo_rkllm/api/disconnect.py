"""A client that hangs up ends what is done for it, at once: while it waits in the queue as well as in mid-answer.

aiohttp 3.8, which the boards' distributions carry, never tells a handler; later versions only where the server was
made with a flag. Standing between the transport and aiohttp's protocol works on all of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from aiohttp import web


class Between(asyncio.Protocol):
    """Hands everything on, and tells of the end."""

    def __init__(self, inner: asyncio.Protocol, gone: Callable[[], object]) -> None:
        self._inner = inner
        self._gone = gone

    def data_received(self, data: bytes) -> None:
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()

    def connection_lost(self, error: Exception | None) -> None:
        self._inner.connection_lost(error)
        self._gone()


@contextmanager
def cancelled_when_gone(request: web.Request) -> Iterator[None]:
    """Cancels the current task when the request's connection ends."""
    task = asyncio.current_task()
    transport = request.transport
    if task is None or transport is None:
        raise asyncio.CancelledError
    inner = transport.get_protocol()
    transport.set_protocol(Between(inner, task.cancel))  # type: ignore[arg-type]  # aiohttp's is an asyncio.Protocol
    try:
        yield
    finally:
        transport.set_protocol(inner)
