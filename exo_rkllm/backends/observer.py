"""What dispatch tells whoever counts: one value at the end of a request, of a load, and of a runner's life.

The dispatcher calls the `Observer` it was given; metrics implement it, tests do, and dispatch knows neither.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import Protocol

from exo_rkllm.backends.base import Timings, Usage

# Between one token and the next: 78 tokens/s is the fastest figure of the vendor's table, a stall is seconds long.
GAP_BOUNDS = (0.01, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5, 5.0)


class TokenGaps:
    """Times between tokens, sorted into buckets as they come, since keeping every one would grow with the answer."""

    __slots__ = ("counts", "last", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(GAP_BOUNDS) + 1)
        self.total = 0.0
        self.last: float | None = None

    def tick(self, now: float) -> None:
        """A token came; `now` is monotonic."""
        if self.last is not None:
            gap = now - self.last
            self.counts[bisect_left(GAP_BOUNDS, gap)] += 1
            self.total += gap
        self.last = now


@dataclass(frozen=True, slots=True)
class AnswerReport:
    """A request has left, whichever way: `reason` is its Finish's, or the code of the error that ended it."""

    model: str
    reason: str
    seconds: float  # from being asked to the end
    usage: Usage = field(default_factory=Usage)
    timings: Timings = field(default_factory=Timings)
    first_token: float | None = None  # seconds from being asked; None where no token came
    gaps: TokenGaps | None = None


@dataclass(frozen=True, slots=True)
class LoadReport:
    """A load has ended; `error` is the code of what went wrong, empty where nothing did."""

    model: str
    seconds: float
    error: str = ""


@dataclass(frozen=True, slots=True)
class RestartReport:
    """A loaded model's engine was lost and is made again: `crash`, `hang`, `protocol`, `driver` or an error's code."""

    model: str
    reason: str


class Observer(Protocol):
    """Called on the event loop, after the fact, and expected to return at once."""

    def answered(self, event: AnswerReport) -> None: ...

    def loaded(self, event: LoadReport) -> None: ...

    def restarted(self, event: RestartReport) -> None: ...


class NullObserver:
    """For whoever does not count."""

    def answered(self, event: AnswerReport) -> None:
        pass

    def loaded(self, event: LoadReport) -> None:
        pass

    def restarted(self, event: RestartReport) -> None:
        pass
