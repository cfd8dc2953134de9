"""Busy seconds of each core: one sample a second while the NPU has power or somebody watches, none otherwise.

The driver's line covers the last second only, so a scrape every 15 s would see one second of fifteen. Summed up once
a second, it makes a counter whose rate is right at any interval (npu-platform 3.2).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from exo_rkllm.board.counters import read_load, read_power
from exo_rkllm.board.sources import Sources

PERIOD = 1.0
# A sample stands for the time since the previous one; after a longer gap it stands for its own second only.
LONGEST = 2.5
# Seconds for which a scrape or the start of an answer keeps the sampler awake.
INTEREST = 5.0


@dataclass(frozen=True, slots=True)
class NpuLoad:
    """Busy seconds since the daemon's start, a core each; empty until the load has been read for the first time."""

    seconds: tuple[float, ...] = ()
    at: float | None = None  # time of the previous sample; None begins a new series
    load: tuple[float, ...] | None = None


def integrate(busy: NpuLoad, load: tuple[float, ...] | None, now: float) -> NpuLoad:
    """`busy` with one more sample. A load that cannot be read (None) adds nothing and ends the series."""
    if load is None:
        return replace(busy, at=None, load=None)
    elapsed = PERIOD if busy.at is None or now - busy.at > LONGEST else max(now - busy.at, 0.0)
    before = busy.seconds + (0.0,) * (len(load) - len(busy.seconds))
    added = load + (0.0,) * (len(before) - len(load))
    return NpuLoad(tuple(total + part * elapsed for total, part in zip(before, added, strict=True)), now, load)


def should_sample(*, powered: bool | None, watchers: int, interest_until: float, now: float) -> bool:
    """Whether another sample is due in a second. An unknown power state counts as off."""
    return powered is True or watchers > 0 or now < interest_until


class Sampler:
    """Samples on the event loop, and tells `on_sample` the load of each second.

    `touch` and `watch` wake it, and must be called on the loop's thread.
    """

    def __init__(
        self,
        sources: Callable[[], Sources],
        loop: asyncio.AbstractEventLoop,
        on_sample: Callable[[tuple[float, ...] | None], None] | None = None,
    ) -> None:
        self._sources = sources
        self._on_sample = on_sample
        self._loop = loop
        self._busy = NpuLoad()
        self._watchers = 0
        self._interest_until = 0.0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def sleeping(self) -> bool:
        return self._timer is None

    def busy(self) -> NpuLoad:
        """The counter, with a sample of this moment."""
        self._sample()
        return self._busy

    def touch(self, seconds: float = INTEREST) -> None:
        """Sample for so many seconds more: the NPU may get power, or somebody has looked."""
        self._interest_until = max(self._interest_until, self._loop.time() + seconds)
        if self._timer is None:
            self._tick()

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Sample for as long as this context is entered."""
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
        if self._on_sample is not None:
            self._on_sample(self._busy.load)
        if should_sample(
            powered=powered, watchers=self._watchers, interest_until=self._interest_until, now=self._loop.time()
        ):
            self._timer = self._loop.call_later(PERIOD, self._tick)
        else:
            self._timer = None
            self._busy = replace(self._busy, at=None)

    def _sample(self) -> bool | None:
        sources = self._sources()
        powered = read_power(sources)
        self._busy = integrate(self._busy, read_load(sources), self._loop.time())
        return powered
