"""What going on inside the reader's callback would save against a plain future, on a cold loop at 20 tokens a second.

The daemon used the inline waiter below, which speaks asyncio's private protocol between tasks and futures, until this
table showed that it saves less than a tenth of what a token costs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextvars import Context
from typing import Any, TypeAlias

from bench import http
from exo_rkllm import cli
from exo_rkllm.runner import parent
from exo_rkllm.runner.stream import MakeToken, RunStream

Step: TypeAlias = Callable[[Any], object]


class InlineWaiter:
    """What one task awaits again and again; `now` runs the task inside the caller, a callback of the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._asyncio_future_blocking = False
        self._step: Step | None = None
        self._context: Context | None = None

    def __await__(self) -> Generator[InlineWaiter, None, None]:
        self._asyncio_future_blocking = True
        yield self

    def now(self) -> None:
        step, self._step = self._step, None
        if step is not None and self._context is not None:
            self._context.run(step, self)

    # What a task asks of a future.

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    def add_done_callback(self, step: Step, *, context: Context | None = None) -> None:
        self._step, self._context = step, context

    def result(self) -> None:
        """Nothing: what came lies in the stream."""


class InlineStream(RunStream):
    def __init__(self, make: MakeToken, prefill: float) -> None:
        super().__init__(make, prefill)
        self._waiter = InlineWaiter(asyncio.get_running_loop())

    async def wait(self) -> None:
        await self._waiter

    def wake(self) -> None:
        self._waiter.now()


def main() -> None:
    http.compare("plain future and inline waiter", ("plain future", "exo_rkllm"), ("inline waiter", "bench.waiter"))


if __name__ == "__main__":  # the served side with the inline waiter
    setattr(parent, "RunStream", InlineStream)  # noqa: B010 - mypy takes no other class
    raise SystemExit(cli.main())
