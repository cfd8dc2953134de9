"""Where waiting requests stand: told to each of them when it changes.

The first are told in the loop's next turn, since the next one's prompt is made then. Those behind them are told a
moment later: each answer moves all who wait, and hundreds of them would be woken while the next run is started.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from itertools import islice

from exo_rkllm.backends.base import Progress
from exo_rkllm.dispatch.request import ActiveRequest
from exo_rkllm.dispatch.state import DispatchState

FIRST = 4
LATER_SECONDS = 0.1


class QueueProgress:
    """`state` is the run loop's; `requests` are all there are, by ticket."""

    def __init__(self, state: Callable[[], DispatchState], requests: Mapping[int, ActiveRequest]) -> None:
        self._state = state
        self._requests = requests
        self._moved: set[str] = set()
        self._behind: set[str] = set()

    def moved(self, models: Collection[str]) -> None:
        """These models have changed."""
        if models and not self._moved:
            asyncio.get_running_loop().call_soon(self._tell_first)
        self._moved.update(models)

    def _tell_first(self) -> None:
        """After what the changes themselves wanted done."""
        moved, self._moved = self._moved, set()
        behind = {name for name in moved if self._tell(name, 0, FIRST)}
        if behind and not self._behind:
            asyncio.get_running_loop().call_later(LATER_SECONDS, self._tell_others)
        self._behind |= behind

    def _tell_others(self) -> None:
        behind, self._behind = self._behind, set()
        for name in behind:
            self._tell(name, FIRST, None)

    def _tell(self, name: str, first: int, last: int | None) -> bool:
        """Tells those who wait at these places; whether there are others behind them."""
        model = self._state().models[name]
        for ahead, entry in islice(enumerate(model.queue.entries, len(model.running)), first, last):
            if (active := self._requests.get(entry.ticket)) is not None:
                active.progress(Progress("loading") if model.phase == "loading" else Progress("queued", ahead))
        return last is not None and len(model.queue) > last
