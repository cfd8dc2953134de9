"""What is measured in one round of tokens that come at a board's pace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.usage import Used


def quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


@dataclass(frozen=True, slots=True)
class Round:
    """Delays in ms; CPU in µs and wake-ups, each a token."""

    median: float
    tail: float
    cpu: float
    wakeups: float

    @classmethod
    def of(cls, delays: Sequence[float], spent: Used) -> Round:
        count = len(delays)
        return cls(quantile(delays, 0.5), quantile(delays, 0.99), spent.cpu / count * 1e6, spent.wakeups / count)
