"""Events of one run, on their way from the reader of the child's socket to whoever iterates them."""

from __future__ import annotations

import asyncio
import codecs
import mmap
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from exo_rkllm.errors import ExoRkllmError
from exo_rkllm.runner.wire import ProtocolError

Token: TypeAlias = Any
MakeToken: TypeAlias = Callable[[str, int], Token]


@dataclass(frozen=True, slots=True)
class RunStarted:
    """The child has begun this run: prefill."""


@dataclass(frozen=True, slots=True)
class ArrayRows:
    """Rows of `output`: float32 of hidden, logits or an encoding, or the bytes of pixels."""

    output: str
    rows: int
    width: int
    data: memoryview

    @classmethod
    def mapped(cls, fd: int, output: str, rows: int, width: int, item: int = 4) -> ArrayRows:
        """Those of a memory file, whose descriptor is closed; raises ProtocolError where the file is shorter.

        `item` is the bytes of one value.
        """
        try:
            size = rows * width * item
            view = memoryview(mmap.mmap(fd, size, access=mmap.ACCESS_READ)) if size else memoryview(b"")
        except (OSError, ValueError) as error:
            raise ProtocolError("rows that do not fill their memory file") from error
        finally:
            os.close(fd)
        return cls(output, rows, width, view)


@dataclass(frozen=True, slots=True)
class RunDone:
    """The end of a run, with the session's figures as they came."""

    figures: Mapping[str, Any]
    stopped: bool


class RunStream:
    """`events` are taken by the one who iterates, and are bounded by the model's context; `error` ends them.

    `prefill` is how many seconds of silence its prefill may take.
    """

    __slots__ = ("_decoder", "_future", "_incomplete", "_make", "error", "events", "prefill", "started")

    def __init__(self, make: MakeToken, prefill: float) -> None:
        self.prefill = prefill
        self.events: list[Any] = []
        self.error: ExoRkllmError | None = None
        self.started = False
        self._make = make
        self._future: asyncio.Future[None] | None = None
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._incomplete = False

    def token(self, token: int, data: bytes) -> None:
        """The decoder is for what is no text by itself: a part of a character, or what follows one."""
        if not self._incomplete:
            try:
                self.events.append(self._make(data.decode(), token))
            except UnicodeDecodeError:
                pass
            else:
                self.wake()
                return
        text = self._decoder.decode(data)
        self._incomplete = bool(self._decoder.getstate()[0])
        self.events.append(self._make(text, token))
        self.wake()

    def end(self, event: RunDone | ExoRkllmError) -> None:
        """The last event, behind what is left of a character that never became whole; or the error."""
        if isinstance(event, RunDone):
            if rest := self._decoder.decode(b"", final=True):
                self.events.append(self._make(rest, -1))
            self.events.append(event)
        else:
            self.error = event
        self.wake()

    async def wait(self) -> None:
        """Until `wake`. A plain future: going on inside the reader's callback saved nothing (bench/waiter.py)."""
        self._future = asyncio.get_running_loop().create_future()
        try:
            await self._future
        finally:
            self._future = None

    def wake(self) -> None:
        if self._future is not None and not self._future.done():
            self._future.set_result(None)
