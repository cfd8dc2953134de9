"""A node's view of the log: released in order, repaired with exo's own patience."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from tests.exo_cluster.standin.master import new_id
from tests.exo_cluster.standin.state import Json, unwrap


class EventRouter:
    """`outward` publishes (topic, message); `inward` is told (index, event) in order."""

    def __init__(
        self, session: Json, outward: Callable[[str, Json], None], inward: Callable[[int, Json], None]
    ) -> None:
        self.session = session
        self._outward = outward
        self._inward = inward
        self._next = 0
        self._waiting: dict[int, Json] = {}
        self._origin = new_id()
        self._sent = 0
        self._unechoed: dict[str, tuple[float, Json]] = {}
        self._attempts = 0
        self._asking: asyncio.TimerHandle | None = None
        self._retry = asyncio.get_running_loop().create_task(self._resend())

    def close(self) -> None:
        self._retry.cancel()
        if self._asking is not None:
            self._asking.cancel()

    def tell(self, what: Json) -> None:
        message = {"origin_idx": self._sent, "origin": self._origin, "session": self.session, "event": what}
        self._sent += 1
        self._unechoed[unwrap(what)[1]["event_id"]] = (time.monotonic(), message)
        self._outward("local_events", message)

    def receive(self, message: Json) -> None:
        if message["session"] != self.session or message["origin"] != self.session["master_node_id"]:
            return
        index, what = message["origin_idx"], message["event"]
        self._unechoed.pop(unwrap(what)[1]["event_id"], None)
        if index >= self._next:
            self._waiting[index] = what
        released = False
        while self._next in self._waiting:
            released = True
            self._next += 1
            self._inward(self._next - 1, self._waiting.pop(self._next - 1))
        if released:
            self._attempts = 0
            if self._asking is not None:
                self._asking.cancel()
                self._asking = None
        elif self._asking is None:
            delay = min(10.0, 0.5 * 2.0**self._attempts)
            self._attempts += 1
            self._asking = asyncio.get_running_loop().call_later(delay, self._ask)

    def _ask(self) -> None:
        self._asking = None
        command = {"RequestEventLog": {"command_id": new_id(), "since_idx": self._next}}
        self._outward("commands", {"origin": self._origin, "command": command})

    async def _resend(self) -> None:
        while True:
            await asyncio.sleep(1.5)
            now = time.monotonic()
            for key, (at, message) in list(self._unechoed.items()):
                if now > at + 5:
                    self._unechoed[key] = (now, message)
                    self._outward("local_events", message)
