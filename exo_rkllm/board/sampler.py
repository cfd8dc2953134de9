"""Busy seconds of each core: one sample a second while the NPU has power or somebody watches, none otherwise.

The driver's line covers the last second only, so whoever scrapes every 15 s sees one second of fifteen; summing the
line up once a second gives a counter whose rate is right at any interval (npu-platform 3.2).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from exo_rkllm.board.counters import read_load, read_power
from exo_rkllm.board.sources import Sources

PERIOD = 1.0
# One sample stands for the time since the one before it; after a longer gap it stands for its own second only.
LONGEST = 2.5
# How long a scrape or the start of an answer counts as somebody who watches.
INTEREST = 5.0


@dataclass(frozen=True, slots=True)
class NpuLoad:
    """`seconds` since the daemon's start, a core each; empty until a load could be read for the first time."""

    seconds: tuple[float, ...] = ()
    at: float | None = None  # when the running series of samples had its last one
    load: tuple[float, ...] | None = None


def integrate(busy: NpuLoad, load: tuple[float, ...] | None, now: float) -> NpuLoad:
    """A load that cannot be read adds nothing and ends the series: the next one stands for its own second only."""
    if load is None:
        return replace(busy, at=None, load=None)
    elapsed = PERIOD if busy.at is None or now - busy.at > LONGEST else max(now - busy.at, 0.0)
    before = busy.seconds + (0.0,) * (len(load) - len(busy.seconds))
    added = load + (0.0,) * (len(before) - len(load))
    return NpuLoad(tuple(total + part * elapsed for total, part in zip(before, added, strict=True)), now, load)


def wanted(*, powered: bool | None, watchers: int, interest_until: float, now: float) -> bool:
    """Power that cannot be known keeps nobody awake."""
    return powered is True or watchers > 0 or now < interest_until


class Sampler:
    """The loop's side of it. `touch` and `watch` are called on the loop's thread, and wake a sampler that sleeps."""

    def __init__(self, sources: Callable[[], Sources], loop: asyncio.AbstractEventLoop) -> None:
        self._sources = sources
        self._loop = loop
        self._busy = NpuLoad()
        self._watchers = 0
        self._interest_until = 0.0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def sleeping(self) -> bool:
        return self._timer is None

    def busy(self) -> NpuLoad:
        """The counter, up to this moment."""
        self._sample()
        return self._busy

    def touch(self, seconds: float = INTEREST) -> None:
        """Something happened that may give the NPU power, or somebody looked."""
        self._interest_until = max(self._interest_until, self._loop.time() + seconds)
        if self._timer is None:
            self._tick()

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Somebody looks for as long as this is entered."""
        self._watchers += 1
        self.touch(0)
        try:
            yield
        finally:
            self._watchers -= 1

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        powered = self._sample()
        if wanted(powered=powered, watchers=self._watchers, interest_until=self._interest_until, now=self._loop.time()):
            self._timer = self._loop.call_later(PERIOD, self._tick)
        else:
            self._timer = None
            self._busy = replace(self._busy, at=None)

    def _sample(self) -> bool | None:
        sources = self._sources()
        powered = read_power(sources)
        self._busy = integrate(self._busy, read_load(sources), self._loop.time())
        return powered
