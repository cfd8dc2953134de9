"""Which master to follow, learned without a vote of our own (reference 2.4)."""

from __future__ import annotations

from dataclasses import dataclass

from exo_rkllm.cluster.wire.events import ElectionMessage, SessionId

# A campaign takes 3.0 s; its result is what was heard a little later than that.
SETTLE = 3.3
# No event at all for so long after the first link came up: only nodes without a worker are silent (reference 2.4).
SILENT_CLUSTER = 5.0
# A master that was silent for so long while another one speaks is not followed any more; sooner where it has
# said nothing since our link came back, because the election happened while we were away.
SILENT_MASTER, SILENT_SINCE_LINK = 10.0, 3.0
# After a link came back it takes a moment until the other side knows who listens to what.
SETTLE_LINK = 0.3
# Exo nodes may not notice that their master died (reference 1). We say something when it has been silent for longer
# than is usual, or when our link came back; a living master echoes it at once.
PROBE_AFTER, PROBE_PACES, ECHO_IN = 2.5, 3.0, 1.0
# Candidates with growing clocks until one of them is new to somebody; then rarely, and not again soon after an
# election that changed nothing: each one makes exo's API wait for three seconds.
NUDGE_EVERY, NUDGES, NUDGE_RARELY, NUDGE_AGAIN = 0.4, 10, 5.0, 20.0
# A network that was parted and is whole again may keep two masters, for the same reason. An election leaves one.
TWO_MASTERS = 6.0


@dataclass(frozen=True, slots=True)
class Adopt:
    session: SessionId
    why: str


@dataclass(frozen=True, slots=True)
class DeclareToken:
    """Show a liveliness token: it starts an election in a silent cluster, whose result we then see."""


@dataclass(frozen=True, slots=True)
class Nudge:
    message: ElectionMessage
    why: str
    again: bool  # not the first one in a row


@dataclass(frozen=True, slots=True)
class Probe:
    """Publish something, which the master echoes if it lives."""


Decision = Adopt | DeclareToken | Nudge | Probe


@dataclass(slots=True)
class Follower:
    """Takes events and election messages and decides whom to follow; `now` is any clock that only goes forward."""

    me: str
    session: SessionId | None = None
    _linked_at: float | None = None
    _last_event: float = 0.0
    _heard_ours: bool = False  # an event of the master that is followed, since the link came up
    _candidates: tuple[ElectionMessage, ...] = ()
    _settle_at: float | None = None
    _clock: int = 0
    _spoke: bool = False  # a token was declared on this link
    _pace: float = 0.0  # seconds between events, of late
    _probe_at: float | None = None
    _nudges: int = 0
    _nudge_at: float | None = None
    _nudge_not_before: float = 0.0
    _rival_since: float | None = None  # another master speaks beside the one that is followed
    _rival_at: float = 0.0

    def link_up(self, now: float) -> None:
        self._linked_at, self._last_event = now, now
        self._heard_ours = self._spoke = False
        if self.session is not None:
            self._probe_at = now + SETTLE_LINK

    def link_down(self) -> None:
        self._linked_at = self._probe_at = self._nudge_at = self._settle_at = None

    def event(self, session: SessionId, now: float) -> Decision | None:
        """A global event of this session was seen."""
        if session == self.session:
            self._pace += (now - self._last_event - self._pace) / 4
            self._alive(now)
            return None
        if self.session is None:
            return self._adopt(session, now, "first event heard")
        if self._settle_at is not None and self._winner() == session:
            return self._adopt(session, now, "elected")
        patience = SILENT_MASTER if self._heard_ours else SILENT_SINCE_LINK
        if now - self._last_event > patience:
            return self._adopt(session, now, "the master followed so far is silent")
        return self._two_masters(session, now)

    def _two_masters(self, rival: SessionId, now: float) -> Decision | None:
        if self._rival_since is None or now - self._rival_at > TWO_MASTERS:
            self._rival_since = now
        self._rival_at = now
        self._clock = max(self._clock, rival.election_clock)
        if now - self._rival_since < TWO_MASTERS or now < self._nudge_not_before or self._settle_at is not None:
            return None
        nudge = self._nudge(now, "Two masters speak in the exo cluster")
        # ours is not silent, so it is the rival's next event that may bring another one
        self._nudge_not_before, self._nudge_at = self._nudge_at or now, None
        return nudge

    def candidate(self, candidate: ElectionMessage, now: float) -> None:
        if candidate.proposed_session.master_node_id == self.me or candidate.clock < self._clock:
            return
        if candidate.clock > self._clock:
            self._clock, self._candidates, self._settle_at = candidate.clock, (), now + SETTLE
        self._candidates = (*self._candidates[-255:], candidate)
        if self._nudges:
            self._nudge_not_before = now + NUDGE_AGAIN
        self._nudges, self._nudge_at, self._rival_since = 0, None, None
        if self.session is not None and self._linked_at is not None:
            self._probe_at = now + SETTLE + PROBE_AFTER

    def tick(self, now: float) -> Decision | None:
        if self._settle_at is not None and now >= self._settle_at:
            self._settle_at = None
            winner = self._winner()
            if winner is not None and winner != self.session:
                return self._adopt(winner, now, "elected")
        if self._linked_at is None:
            return None
        speak_at = self._speak_at()
        if speak_at is not None and now >= speak_at:
            self._spoke = True
            return DeclareToken()
        if self._probe_at is not None and now >= self._probe_at:
            self._probe_at = None
            self._nudge_at = max(now + ECHO_IN, self._nudge_not_before)
            return Probe()
        if self._nudge_at is not None and now >= self._nudge_at:
            return self._nudge(now, "The exo cluster's master is silent")
        return None

    @property
    def deadline(self) -> float | None:
        waits = (self._settle_at, self._probe_at, self._nudge_at, self._speak_at())
        return min((wait for wait in waits if wait is not None), default=None)

    def _speak_at(self) -> float | None:
        if self._linked_at is None or self.session is not None or self._spoke or self._settle_at is not None:
            return None
        return self._linked_at + SILENT_CLUSTER

    def _winner(self) -> SessionId | None:
        best = max(
            self._candidates,
            key=lambda one: (one.seniority, one.commands_seen, one.proposed_session.master_node_id),
            default=None,
        )
        return None if best is None else best.proposed_session

    def _adopt(self, session: SessionId, now: float, why: str) -> Adopt:
        self.session, self._pace, self._nudges, self._rival_since = session, 0.0, 0, None
        self._clock = max(self._clock, session.election_clock)
        self._alive(now)
        return Adopt(session, why)

    def _alive(self, now: float) -> None:
        """The master that is followed has spoken."""
        self._last_event, self._heard_ours, self._nudge_at = now, True, None
        if self._rival_since is None or now - self._rival_at > TWO_MASTERS:
            self._nudges, self._rival_since = 0, None
        if self._linked_at is not None:
            self._probe_at = now + max(PROBE_AFTER, PROBE_PACES * self._pace)

    def _nudge(self, now: float, why: str) -> Nudge:
        """A candidate that cannot win, with a clock that grows until somebody finds it new."""
        clock, again = self._clock + 2 ** min(self._nudges, 20), self._nudges > 0
        self._nudges += 1
        self._nudge_at = now + (NUDGE_EVERY if self._nudges < NUDGES else NUDGE_RARELY)
        return Nudge(ElectionMessage(clock, -1, 0, SessionId(self.me, clock)), why, again)
