"""The master's log as it arrives: put into order, duplicates dropped, gaps asked for, memory bounded."""

from __future__ import annotations

from exo_rkllm.cluster.wire.events import LogEntry

# exo waits this long before it asks for a gap again, doubling from the first to the second (reference 2.3).
FIRST_WAIT, LAST_WAIT = 0.5, 10.0
# The master answers with at most so many events (reference 2.3).
PAGE = 1000
# Events behind a gap that are kept; the others come again with the answer to the gap.
KEPT = 4096


class EventLog:
    """Releases events by index, each once. `base` is the first index that is not known yet."""

    def __init__(self) -> None:
        self.base = 0
        self.repairs = 0
        self.highest = -1
        self._waiting: dict[int, LogEntry] = {}
        self._attempts = 0
        self._ask_at: float | None = None
        self._page_end: int | None = None

    @property
    def behind(self) -> int:
        """Events that are known to exist and have not been released."""
        return self.highest + 1 - self.base

    @property
    def deadline(self) -> float | None:
        return self._ask_at

    def receive(self, event: LogEntry, now: float) -> list[LogEntry]:
        """Take one entry in; returns those that are next in order."""
        self.highest = max(self.highest, event.index)
        if event.index < self.base:
            return []
        if event.index == self.base or len(self._waiting) < KEPT:
            self._waiting[event.index] = event
        released = self._release()
        if released:
            self._attempts, self._ask_at = 0, None
            if self._page_end is not None and self.base >= self._page_end:
                self._page_end = None
                self._ask_at = now if self.behind else None
        if self.behind and self._ask_at is None:
            self._ask_at = now + self._wait()
        return released

    def start_at(self, base: int, now: float) -> list[LogEntry]:
        """Start behind a snapshot that holds everything below `base`; a hole behind it is asked for at once."""
        for index in [index for index in self._waiting if index < base]:
            del self._waiting[index]
        self.base = max(self.base, base)
        self.highest = max(self.highest, self.base - 1)
        released = self._release()
        self._attempts = 0
        self._ask_at = now if self.behind else None
        return released

    def gap(self, now: float) -> int | None:
        """The index to ask the log from, when it is time to ask."""
        if self._ask_at is None or now < self._ask_at:
            return None
        self._attempts += 1
        self.repairs += 1
        self._ask_at = now + self._wait()
        self._page_end = self.base + PAGE
        return self.base

    def _release(self) -> list[LogEntry]:
        released = []
        while self.base in self._waiting:
            released.append(self._waiting.pop(self.base))
            self.base += 1
        return released

    def _wait(self) -> float:
        return min(LAST_WAIT, FIRST_WAIT * 2.0**self._attempts)
