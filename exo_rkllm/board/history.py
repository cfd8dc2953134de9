"""The last hour of the NPU, in memory: what the cores did, what the models wrote, and how warm it became.

Fed by the sampler's samples, so it costs nothing while the NPU is off and nobody watches; such times are gaps.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

SPACING = 5.0  # seconds between two points
POINTS = 720  # an hour
# A longer time since the sample before is a gap, and no time that the sample stands for.
LONGEST = 2.5


@dataclass(frozen=True, slots=True)
class HistoryPoint:
    """`time` is when the interval ended, in seconds since the epoch; `load` is the mean of each core.

    `tokens` are those of all models, a second. What could not be read is None.
    """

    time: float
    load: tuple[float, ...] | None
    tokens: float
    celsius: float | None


class History:
    """`tokens` counts those that models have written so far; `celsius` reads the temperature. Both once a point."""

    def __init__(
        self,
        tokens: Callable[[], float],
        celsius: Callable[[], float | None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._tokens = tokens
        self._celsius = celsius
        self._clock = clock
        self._points: deque[HistoryPoint] = deque(maxlen=POINTS)
        self._loads: list[tuple[float, ...]] = []
        self._began: float | None = None
        self._latest = 0.0
        self._counted = 0.0

    def points(self) -> tuple[HistoryPoint, ...]:
        """Oldest first; points older than an hour are left out."""
        oldest = self._clock() - SPACING * POINTS
        return tuple(point for point in self._points if point.time >= oldest)

    def add(self, load: tuple[float, ...] | None) -> None:
        """Take one sample of the cores, about one a second."""
        now = self._clock()
        if self._began is None or not 0 <= now - self._latest <= LONGEST:
            self._begin(now)
        self._latest = now
        if load is not None:
            self._loads.append(load)
        elapsed = now - self._began if self._began is not None else 0.0
        if elapsed < SPACING:
            return
        tokens = max(0.0, self._tokens() - self._counted) / elapsed
        self._points.append(HistoryPoint(now, self._mean(), tokens, self._celsius()))
        self._begin(now)

    def _begin(self, now: float) -> None:
        self._began, self._loads, self._counted = now, [], self._tokens()

    def _mean(self) -> tuple[float, ...] | None:
        if not self._loads:
            return None
        return tuple(sum(core) / len(self._loads) for core in zip(*self._loads, strict=False))
