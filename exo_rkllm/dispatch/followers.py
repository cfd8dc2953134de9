"""Who follows the dispatcher: each gets the overview after a change, made once for all of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from exo_rkllm.dispatch.status import DispatchOverview


class Followers:
    def __init__(self, make: Callable[[], DispatchOverview]) -> None:
        self._make = make
        self._overview: DispatchOverview | None = None
        self._changed: set[asyncio.Event] = set()

    def overview(self) -> DispatchOverview:
        if self._overview is None:
            self._overview = self._make()
        return self._overview

    def tell(self) -> None:
        """Something has changed."""
        self._overview = None
        for changed in self._changed:
            changed.set()

    async def follow(self, changed: asyncio.Event) -> AsyncGenerator[DispatchOverview, None]:
        """The overview now, and again whenever `changed` is set, which every change does."""
        self._changed.add(changed)
        try:
            while True:
                changed.clear()
                yield self.overview()
                await changed.wait()
        finally:
            self._changed.discard(changed)

    async def until(self, holds: Callable[[DispatchOverview], bool]) -> None:
        async with aclosing(self.follow(asyncio.Event())) as overviews:
            async for overview in overviews:
                if holds(overview):
                    return
