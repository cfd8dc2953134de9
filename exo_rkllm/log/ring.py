"""The latest lines, kept in memory for `exo-rkllm logs`, which needs no right to read the journal then."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass

from exo_rkllm.log.fields import fields_of, text_of

KEPT = 1000


@dataclass(frozen=True, slots=True)
class LogLine:
    """`number` counts from the daemon's start, so that a reader sees a gap."""

    number: int
    time: float
    level: str
    source: str
    text: str
    fields: Mapping[str, str]


class Ring(logging.Handler):
    """Any thread may log; followers are woken on their own loop."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: deque[LogLine] = deque(maxlen=KEPT)
        self._count = 0
        self._followers: dict[asyncio.Event, asyncio.AbstractEventLoop] = {}

    def emit(self, record: logging.LogRecord) -> None:
        self._count += 1
        level = record.levelname.lower()
        source = record.name.removeprefix("exo_rkllm.")
        self._lines.append(LogLine(self._count, record.created, level, source, text_of(record), fields_of(record)))
        for follower, loop in tuple(self._followers.items()):
            loop.call_soon_threadsafe(follower.set)

    def latest(self, count: int) -> list[LogLine]:
        return list(self._lines)[-count:] if count > 0 else []

    async def follow(self, count: int) -> AsyncGenerator[LogLine, None]:
        """The latest lines, then every new one as it comes."""
        woken = asyncio.Event()
        self._followers[woken] = asyncio.get_running_loop()
        last = self._count - count
        try:
            while True:
                woken.clear()
                for line in list(self._lines):
                    if line.number > last:
                        last = line.number
                        yield line
                await woken.wait()
        finally:
            del self._followers[woken]
