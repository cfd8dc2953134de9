"""The bodies of all requests that have no answer yet: their memory has a budget, and one thread reads large ones."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

from exo_rkllm.api.faults import BodyTooLarge
from exo_rkllm.errors import Busy

P = ParamSpec("P")
T = TypeVar("T")

# Of the largest body that is taken: what the bodies of one client, and those of all, may take at the same time.
PER_CLIENT = 2
IN_ALL = 3
HINT = "Ask again once earlier requests are answered, or raise [api] body_bytes."


class HeldBody:
    """What one request's body takes, from its first byte until the request is answered."""

    def __init__(self, bodies: Bodies, client: str, largest: int) -> None:
        self._bodies = bodies
        self._client = client
        self._largest = largest
        self._size = 0

    def resize(self, size: int) -> None:
        """Raises Busy where the budget has no room for so many bytes, BodyTooLarge where it never has.

        What it took before stays counted.
        """
        clients, largest = self._bodies.clients, self._largest
        if size > PER_CLIENT * largest:
            raise BodyTooLarge(
                f"The body takes {size / 1e6:.3g} MB of memory, {PER_CLIENT * largest / 1e6:.3g} MB are allowed: one "
                "character beyond U+FFFF in a text makes all of it four times as large.",
                "Send less at once, or raise [api] body_bytes.",
            )
        more = size - self._size
        if more > 0 and clients[self._client] + more > PER_CLIENT * largest:
            raise Busy(
                f"The bodies of your requests take more than {PER_CLIENT * largest / 1e6:.3g} MB until they are "
                "answered.",
                HINT,
            )
        if more > 0 and clients.total() + more > IN_ALL * largest:
            raise Busy(
                f"The bodies of all waiting requests take more than {IN_ALL * largest / 1e6:.3g} MB.",
                HINT,
            )
        clients[self._client] += more
        self._size = size

    def grow(self, more: int) -> None:
        """As `resize` by so many bytes."""
        self.resize(self._size + more)


class Bodies:
    """All bodies of a daemon; `clients` has the bytes of each."""

    def __init__(self) -> None:
        self.clients: Counter[str] = Counter()
        # One, so that the memory for taking a body apart is needed once.
        self._thread = ThreadPoolExecutor(1, "exo-rkllm-bodies")

    @contextmanager
    def hold(self, client: str, largest: int) -> Iterator[HeldBody]:
        """For one request of `client`; `largest` is [api] body_bytes."""
        body = HeldBody(self, client, largest)
        try:
            yield body
        finally:
            body.resize(0)
            if not self.clients[client]:
                del self.clients[client]

    async def compute(self, function: Callable[P, T], *args: P.args, **keywords: P.kwargs) -> T:
        """The function's result, computed beside the loop, which goes on between two of its C calls."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: function(*args, **keywords))
