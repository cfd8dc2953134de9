"""How long each step took: what a slow run is asked first."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Step:
    name: str
    began: float  # seconds since the tests began
    took: float


class Steps:
    def __init__(self) -> None:
        self._start = time.monotonic()
        self._lock = threading.Lock()
        self._done: list[Step] = []

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self.add(name, time.monotonic() - began)

    def add(self, name: str, took: float) -> None:
        with self._lock:
            self._done.append(Step(name, time.monotonic() - took - self._start, took))

    def table(self) -> Iterator[str]:
        """By when they began; some ran beside each other, so the seconds do not add up to the whole."""
        with self._lock:
            for step in sorted(self._done, key=lambda one: one.began):
                yield f"{step.began:7.1f} {step.took:7.1f}  {step.name}"
