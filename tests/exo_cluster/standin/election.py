"""exo's election: campaigns of three seconds, the highest clock, seniority, commands seen, id (reference 2.4)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tests.exo_cluster.standin.state import Json

CAMPAIGN, GATHER = 3.0, 0.2


class Election:
    """`send` publishes a ballot; `elected` is told (session, won clock, new master?)."""

    def __init__(
        self,
        me: str,
        send: Callable[[Json], None],
        elected: Callable[[Json, int, bool], None],
        *,
        seniority: int = 0,
        campaign: float = CAMPAIGN,
    ) -> None:
        self.me = me
        self._seconds = campaign
        self.clock = 0
        self.seniority = seniority
        self.commands_seen = 0
        self.session: Json = {"master_node_id": me, "election_clock": 0}
        self._send = send
        self._elected = elected
        self._ballots: list[Json] = []
        self._campaign: asyncio.Task[None] | None = None
        self._gathering: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._run(0.0)

    def moved(self) -> None:
        """A liveliness token came or went."""
        if self._gathering is None:
            self._gathering = asyncio.get_running_loop().call_later(GATHER, self._gathered)

    def _gathered(self) -> None:
        self._gathering = None
        self.clock += 1
        self._ballots = []
        self._run(self._seconds)

    def ballot(self, message: Json) -> None:
        if message["proposed_session"]["master_node_id"] == self.me:
            return
        if message["clock"] > self.clock:
            self.clock = message["clock"]
            self._ballots = [message]
            self._run(self._seconds)
        elif message["clock"] == self.clock:
            self._ballots.append(message)

    def _run(self, seconds: float) -> None:
        if self._campaign is not None:
            self._campaign.cancel()
        self._campaign = asyncio.get_running_loop().create_task(self._hold(self.clock, self._ballots, seconds))

    async def _hold(self, clock: int, ballots: list[Json], seconds: float) -> None:
        own = self.session if self.session["master_node_id"] == self.me else self._new(clock)
        status = {
            "clock": clock,
            "seniority": self.seniority,
            "proposed_session": own,
            "commands_seen": self.commands_seen,
        }
        ballots.append(status)
        self._send(status)
        await asyncio.sleep(seconds)
        self._send(status)
        winner = max(
            ballots,
            key=lambda one: (
                one["clock"],
                one["seniority"],
                one["commands_seen"],
                one["proposed_session"]["master_node_id"],
            ),
        )
        session = winner["proposed_session"]
        if session["master_node_id"] == self.me and self.seniority >= 0:
            self.seniority = max(self.seniority, len(ballots))
        fresh = session != self.session
        self.session = session
        self._elected(session, clock, fresh)

    def _new(self, clock: int) -> Json:
        return {"master_node_id": self.me, "election_clock": clock}
