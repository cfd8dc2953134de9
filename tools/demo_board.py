"""The demo's board works when its daemon does: load, clock, heat, power and memory follow the answers.

A board's NPU raises its load within a second of the first token, and is switched off three seconds after the last one.
Figures of decoding: the cores wait for memory, so none of them reaches 100 %.
"""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from exo_rkllm.board.detect import DEBUGFS, detect
from exo_rkllm.board.sources import find_sources
from exo_rkllm.client.control import Client
from exo_rkllm.errors import ExoRkllmError
from simulator.boards_parts import load_line

PERIOD = 0.5
OFF_AFTER = 3.0
IDLE_CELSIUS, BUSY_CELSIUS = 41.0, 63.0
# The part of the way to its final temperature that the chip goes in one period.
WARMS = 0.04
VOLTS_IDLE, VOLTS_BUSY = 675_000, 800_000


class DemoBoard:
    """Writes a board's counters. `busy` is taken over at once, so that no reader finds 0 % beside an answer."""

    def __init__(self, root: Path, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._sources = find_sources(root, detect(root))
        self._folder, self._meminfo = root / DEBUGFS, root / "proc/meminfo"
        found = re.search(r"MemAvailable: +(\d+)", self._meminfo.read_text())
        self._available = int(found[1]) if found else 0
        self._celsius = IDLE_CELSIUS
        self._last_busy = -math.inf
        self._lock = threading.Lock()
        self.busy, self.memory = False, 0

    def set(self, *, busy: bool, memory: int) -> None:
        """Whether answers are written, and the bytes of the loaded models."""
        with self._lock:
            self.busy, self.memory = busy, memory
            self._write()

    def tick(self) -> None:
        with self._lock:
            goal = BUSY_CELSIUS if self.busy else IDLE_CELSIUS
            self._celsius += (goal - self._celsius) * WARMS
            self._write()

    def _write(self) -> None:
        now = self._now()
        if self.busy:
            self._last_busy = now
        powered = now - self._last_busy < OFF_AFTER
        sources = self._sources
        rewrite(self._folder / "load", load_line(self._load(now)).decode())
        rewrite(self._folder / "power", "on" if powered else "off")
        for device in sources.devices:
            rewrite(device / "power/runtime_status", "active" if powered else "suspended")
        if sources.npu_clock is not None and sources.npu_clock.top:
            lowest = min(map(int, (sources.npu_clock.path / "available_frequencies").read_text().split()))
            rewrite(sources.npu_clock.path / "cur_freq", str(sources.npu_clock.top if self.busy else lowest))
        if sources.regulator is not None:
            rewrite(sources.regulator / "microvolts", str(VOLTS_BUSY if self.busy else VOLTS_IDLE))
        if sources.zone is not None:
            rewrite(sources.zone / "temp", str(round(self._celsius * 1000)))
        free = max(self._available - self.memory // 1024, 0)
        text = re.sub(r"(MemAvailable: +)\d+", rf"\g<1>{free}", self._meminfo.read_text())
        rewrite(self._meminfo, text.rstrip("\n"))

    def _load(self, now: float) -> list[int]:
        cores = range(self._sources.cores or 1)
        if not self.busy:
            return [0 for _ in cores]
        return [round(66 + 9 * math.sin(now * 0.9 + core) + 5 * math.sin(now * 2.3 + 2 * core)) for core in cores]


def rewrite(path: Path, text: str) -> None:
    """What is not there, this board does not have; a reader never finds half of a file."""
    if path.exists():
        path = path.resolve()
        new = path.with_name(f".{path.name}.new")
        new.write_text(text + "\n")
        new.chmod(0o444)
        new.replace(path)


@contextmanager
def follows(board: DemoBoard, client: Client) -> Iterator[None]:
    """The board works as long as the daemon's status shows answers."""
    over = threading.Event()

    def follow() -> None:
        with suppress(ExoRkllmError, OSError, ValueError):
            for status in client.stream("GET", "/control/status?follow=1"):
                models = status["models"]
                loaded = sum(model["memory"] for model in models if model["state"] == "ready")
                board.set(busy=any(model["running"] for model in models), memory=loaded)
                if over.is_set():
                    return

    def beat() -> None:
        while not over.wait(PERIOD):
            board.tick()

    threads = [threading.Thread(target=work, daemon=True) for work in (follow, beat)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        threads[1].join()
