"""Between the reader of an answer and the writer of its connection: what is ready together leaves together.

The reader never waits for the client, since the next request starts when this one was read to its end; what a slow
client has not taken yet lies here, and is bounded by the length of the answer itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeAlias

# Writes at once and says True, or writes nothing where that would mean waiting.
DisconnectProtocol: TypeAlias = Callable[[bytes], bool]


class DirectWriter:
    __slots__ = ("_due", "_error", "_loop", "_open", "_parts", "_straight", "_waiter")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._parts: list[str] = []
        self._waiter: asyncio.Future[None] | None = None
        self._open = True
        self._error: BaseException | None = None
        self._straight: DisconnectProtocol | None = None
        self._due = False

    def straight(self, write: DisconnectProtocol) -> None:
        """From now on the writer wakes only where it has to wait: a task less at every token."""
        self._straight = write

    def put(self, text: str) -> None:
        """Not awaited, and not delivered before the reader itself waits for something: hence the bundling."""
        self._parts.append(text)
        if not self._due and self._waiter is not None:
            self._due = True
            self._loop.call_soon(self._deliver)

    def _deliver(self) -> None:
        self._due = False
        if self._waiter is None or not self._parts:
            return  # the writer was faster
        if self._straight is not None and self._straight(self._joined()):
            self._parts.clear()
        else:
            self._wake()

    def close(self, error: BaseException | None = None) -> None:
        """Nothing more comes; `error` is raised to a writer that has not begun."""
        self._open = False
        self._error = error
        self._wake()

    async def ready(self) -> None:
        """Returns when there is something to write, and raises what ended the answer before there was."""
        while not self._parts and self._open:
            self._waiter = self._loop.create_future()
            await self._waiter
        if not self._parts and self._error is not None:
            raise self._error

    async def take(self) -> bytes:
        """Everything that is ready; empty at the end."""
        await self.ready()
        data = self._joined()
        self._parts.clear()
        return data

    def _joined(self) -> bytes:
        return "".join(self._parts).encode("ascii", "backslashreplace")

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
