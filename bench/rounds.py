"""What is measured in one round of tokens that come at a board's pace."""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass

from bench.usage import Used

# A clock in text of always the same length, so that two which arrive together can be told apart.
STAMP = 20


def stamp() -> bytes:
    return b"%0*d" % (STAMP, time.monotonic_ns())


def since(sender: socket.socket) -> float:
    """Milliseconds since the next stamp was written, waiting for it."""
    sent = sender.recv(STAMP, socket.MSG_WAITALL)
    return (time.monotonic_ns() - int(sent)) / 1e6


def quantile(values: Sequence[float], share: float) -> float:
    """By nearest rank."""
    return sorted(values)[max(0, math.ceil(len(values) * share) - 1)]


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
