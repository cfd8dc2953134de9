"""Leases: turns on the NPU that other programs take, one at a time, while no model of ours computes there."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, replace

from exo_rkllm.dispatch.queue import EMPTY, FairQueue

# Seconds that a holder whose time is over gets to stop computing, before the NPU is given to others all the same.
GRACE = 10.0


@dataclass(frozen=True, slots=True)
class LeaseState:
    """Whoever waits for a lease, and the ticket of the one that has it."""

    queue: FairQueue = EMPTY
    holder: int | None = None
    since: float = 0.0
    expired: bool = False
    last_turn: int = 0  # as of a model: together the neighbours are one more that takes turns

    def grant(self, ticket: int, now: float, turn: int) -> LeaseState:
        return LeaseState(self.queue.start(ticket), ticket, now, expired=False, last_turn=turn)

    def without(self, ticket: int) -> LeaseState:
        """The same once that one has left, wherever it was."""
        if ticket == self.holder:
            return replace(self, holder=None, expired=False)
        return replace(self, queue=self.queue.leave({ticket}))

    def deadline(self, seconds: float) -> float:
        """When the holder has to stop, or, once it was told so, when the lease ends without it."""
        if self.holder is None:
            return math.inf
        return self.since + seconds + (GRACE if self.expired else 0.0)


NO_LEASE = LeaseState()


class NpuLease:
    """One program's lease. `expired`: it has GRACE seconds left to stop; `ended`: others may compute from now on."""

    def __init__(self, ticket: int, name: str, now: float) -> None:
        self.ticket = ticket
        self.name = name
        self.since = now
        self.granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.expired = asyncio.Event()
        self.ended = asyncio.Event()

    def grant(self, now: float) -> None:
        """Its turn has come. A program that leaves at this moment has its end on the way already."""
        self.since = now
        if not self.granted.done():
            self.granted.set_result(None)

    def refuse(self, error: Exception) -> None:
        if not self.granted.done():
            self.granted.set_exception(error)

    def expire(self, *, ended: bool) -> None:
        """Its time is over, or, where it was told so before, its lease."""
        (self.ended if ended else self.expired).set()
