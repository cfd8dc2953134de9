"""Waiting for a child without a second turn of the loop, which at 20 tokens a second runs from cold caches."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextvars import Context
from typing import Any, TypeAlias

Step: TypeAlias = Callable[[Any], object]


class InlineWaiter:
    """What one task awaits again and again, by the protocol that tasks speak with futures.

    `now` runs the task inside the caller, who must be a callback of the loop; `soon` is for everybody else.
    """

    __slots__ = ("_asyncio_future_blocking", "_cancelled", "_context", "_loop", "_step")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._asyncio_future_blocking = False
        self._step: Step | None = None
        self._context: Context | None = None
        self._cancelled = False

    def __await__(self) -> Generator[InlineWaiter, None, None]:
        self._asyncio_future_blocking = True
        yield self
        if self._cancelled:
            self._cancelled = False
            raise asyncio.CancelledError

    def now(self) -> None:
        """The task goes on here and now, if it waits."""
        step = self._step
        if step is not None:
            self._step = None
            self._context.run(step, self)  # type: ignore[union-attr]  # comes with the step

    def soon(self) -> None:
        """The task goes on in the loop's next turn, if it waits."""
        step, self._step = self._step, None
        if step is not None:
            self._loop.call_soon(step, self, context=self._context)

    # ── what a task asks of a future ─────────────────────────────────────────────────────────────

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    def add_done_callback(self, step: Step, *, context: Context | None = None) -> None:
        self._step, self._context = step, context

    def result(self) -> None:
        """Nothing: what came lies with whoever called."""

    def cancel(self, msg: object = None) -> bool:
        """Of the task that waits; False where it goes on already, and the task then hears of it by itself."""
        if self._step is None:
            return False
        self._cancelled = True
        self.soon()
        return True
