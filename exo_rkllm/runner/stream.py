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
TakeToken: TypeAlias = Callable[[Token], bool]


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

    `prefill` is how many seconds of silence its prefill may take. `take`, where somebody has set it, is offered a token
    that comes alone while the reader waits; what it takes is no event. `texts` are those of all tokens.
    """

    __slots__ = (
        *("_decoder", "_future", "_incomplete", "_make"),
        *("error", "events", "prefill", "started", "take", "texts"),
    )

    def __init__(self, make: MakeToken, prefill: float) -> None:
        self.prefill = prefill
        self.events: list[Any] = []
        self.error: ExoRkllmError | None = None
        self.started = False
        self.texts: list[str] = []
        self.take: TakeToken | None = None
        self._make = make
        self._future: asyncio.Future[None] | None = None
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._incomplete = False

    def token(self, token: int, data: bytes, *, alone: bool = False) -> None:
        """`alone`: nothing came together with it."""
        text = self._text(data)
        self.texts.append(text)
        made = self._make(text, token)
        if alone and self.take is not None and self._is_awaited and self.take(made):
            return
        self.events.append(made)
        self.wake()

    def _text(self, data: bytes) -> str:
        """The decoder is for what is no text by itself: a part of a character, or what follows one."""
        if not self._incomplete:
            try:
                return data.decode()
            except UnicodeDecodeError:
                pass
        text = self._decoder.decode(data)
        self._incomplete = bool(self._decoder.getstate()[0])
        return text

    def end(self, event: RunDone | ExoRkllmError) -> None:
        """The last event, behind what is left of a character that never became whole; or the error."""
        if isinstance(event, RunDone):
            if rest := self._decoder.decode(b"", final=True):
                self.texts.append(rest)
                self.events.append(self._make(rest, -1))
            self.events.append(event)
        else:
            self.error = event
        self.wake()

    async def wait(self) -> None:
        """Until `wake`."""
        self._future = asyncio.get_running_loop().create_future()
        try:
            await self._future
        finally:
            self._future = None

    @property
    def _is_awaited(self) -> bool:
        """By a reader that has all that came, and has not been woken since."""
        return self._future is not None and not self._future.done()

    def wake(self) -> None:
        if self._future is not None and not self._future.done():
            self._future.set_result(None)
