"""How long a child has said nothing, and when that is too long."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Silence:
    """`heard` is set whenever the child says something. `hung` is told once what the child did, and for how long.

    There is one timer, moved only when it fires: a token costs an assignment.
    """

    __slots__ = ("_abort_by", "_abort_limit", "_hung", "_loop", "_timer", "heard", "patience")

    def __init__(self, loop: asyncio.AbstractEventLoop, abort_limit: float, hung: Callable[[str, float], None]) -> None:
        self._loop = loop
        self._abort_limit = abort_limit
        self._hung = hung
        self._timer: asyncio.TimerHandle | None = None
        self._abort_by: float | None = None
        self.heard = loop.time()
        self.patience: float | None = None

    def expect(self, patience: float | None) -> None:
        """From now on the child may be silent for so many seconds; None while it has nothing to send."""
        self.patience = patience
        if patience is not None:
            self.heard = self._loop.time()
            self._watch(self.heard + patience)

    def expect_end(self) -> None:
        """A run that has begun is told to stop, and ends in time."""
        self._abort_by = self._loop.time() + max(self._abort_limit, self.patience or 0.0)
        self._watch(self._abort_by)

    def ended(self) -> None:
        self._abort_by = None

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _watch(self, when: float) -> None:
        """Wakes at `when` or before."""
        if self._timer is None or when < self._timer.when():
            self.close()
            self._timer = self._loop.call_at(when, self._on_time)

    def _on_time(self) -> None:
        self._timer = None
        if self._abort_by is not None:
            due, what, limit = self._abort_by, "did not stop when told to", self._abort_limit
        elif self.patience is not None:
            due, what, limit = self.heard + self.patience, "said nothing", self.patience
        else:
            return
        if due > self._loop.time():
            self._watch(due)
        else:
            self._hung(what, limit)
