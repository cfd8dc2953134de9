"""Events on their way to the master: numbered, few at a time, sent again until the log echoes them."""

from __future__ import annotations

import uuid
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import Any, Literal, TypeAlias

from exo_rkllm.cluster.effects import (
    BeginTaskEffect,
    CancelTaskEffect,
    ClusterEffect,
    LogEffect,
    PublishCommandEffect,
    PublishEventEffect,
    SendEffect,
    node_info,
)
from exo_rkllm.cluster.serving import BoardGauges
from exo_rkllm.cluster.session.crash_watch import CrashWatch
from exo_rkllm.cluster.session.view import ClusterCounters, Echoes
from exo_rkllm.cluster.wire.checks import Mismatch
from exo_rkllm.cluster.wire.events import ElectionMessage, Raw, SessionId, Tagged
from exo_rkllm.cluster.wire.revisions import Revision

# More unanswered events than this overflow exo's 1024-slot channels and cost seconds (reference 6).
WINDOW = 200
# exo's own wait before it sends an event again (reference 2.3).
RESEND = 5.0
EVENTS, COMMANDS, ELECTION = "local_events", "commands", "election_messages"

# Turns an event's message into what is sent.
Encode: TypeAlias = Callable[[Raw], bytes]


@dataclass(frozen=True, slots=True)
class MembershipSources:
    """Where ids, the time of day, the disk's size (total, free) and the board's gauges come from."""

    new_id: Callable[[], str] = lambda: str(uuid.uuid4())
    time_of_day: Callable[[], str] = lambda: str(datetime.now(timezone.utc))
    disk: Callable[[], tuple[int, int] | None] = lambda: None
    gauges: Callable[[], BoardGauges | None] = lambda: None


@dataclass(slots=True)
class _Sent:
    payload: bytes
    first: float
    last: float


@dataclass(slots=True)
class _Waiting:
    event_id: str
    tag: str
    fields: Raw

    @property
    def command_id(self) -> str:
        """Of a chunk; empty for any other event."""
        return str(self.fields["command_id"]) if self.tag == "ChunkGenerated" else ""


def merge(earlier: Tagged, later: Tagged) -> Tagged | None:
    """Two chunks of one answer as one, where nothing is lost by it."""
    if "PrefillProgressChunk" in earlier and "PrefillProgressChunk" in later:
        return later
    first, second = earlier.get("TokenChunk"), later.get("TokenChunk")
    if first is None or second is None or first["finish_reason"] is not None:
        return None
    if first["is_thinking"] != second["is_thinking"] and (second["text"] or second["finish_reason"] is None):
        return None
    both: dict[str, Any] = {
        "text": first["text"] + second["text"],
        "token_id": (second if second["text"] else first)["token_id"],
        "is_thinking": first["is_thinking"],
    }
    return {"TokenChunk": {**second, **both}}


class PublishQueue:
    """Takes events from `start` to `stop`; what it counts outlives the sessions."""

    def __init__(self) -> None:
        self.resends = 0
        self.echoes = Echoes()
        self._envelope: Raw = {}
        self._next = 0
        self._queue: deque[_Waiting] = deque()
        self._tails: dict[str, _Waiting] = {}  # a command's latest waiting chunk
        self._sent: dict[str, _Sent] = {}  # by the event's id, oldest first

    def start(self, origin: str, session: SessionId) -> None:
        """Begin a session, with a new origin: the master ignores one that starts again at 0."""
        self.stop()
        self._envelope = {"origin": origin, "session": asdict(session)}

    def stop(self) -> None:
        """Drop what has not been sent or echoed, and take no more events."""
        self._envelope, self._next = {}, 0
        for waiting in (self._queue, self._tails, self._sent):
            waiting.clear()

    @property
    def unechoed(self) -> int:
        return len(self._sent)

    @property
    def idle(self) -> bool:
        return not self._queue and not self._sent

    def put(self, event_id: str, event: PublishEventEffect) -> None:
        """Queue an event; a chunk joins the one of its answer that still waits."""
        if not self._envelope:
            return
        waiting = _Waiting(event_id, event.tag, event.fields)
        if waiting.command_id:
            tail = self._tails.get(waiting.command_id)
            together = None if tail is None else merge(tail.fields["chunk"], event.fields["chunk"])
            if tail is not None and together is not None:
                tail.fields = {**tail.fields, "chunk": together}
                return
            self._tails[waiting.command_id] = waiting
        self._queue.append(waiting)

    def drop_chunks(self, command_id: str) -> None:
        """Forget what has not been sent yet to somebody who has gone."""
        if self._tails.pop(command_id, None) is not None:
            self._queue = deque(waiting for waiting in self._queue if waiting.command_id != command_id)

    def take(self, now: float, encode: Encode) -> list[bytes]:
        """What may be sent now for the first time."""
        payloads = []
        while self._queue and len(self._sent) < WINDOW:
            waiting = self._queue.popleft()
            if self._tails.get(waiting.command_id) is waiting:
                del self._tails[waiting.command_id]
            event = {waiting.tag: {"event_id": waiting.event_id, **waiting.fields}}
            payload = encode({"origin_idx": self._next, **self._envelope, "event": event})
            self._next += 1
            self._sent[waiting.event_id] = _Sent(payload, now, now)
            payloads.append(payload)
        return payloads

    def acknowledge(self, event_id: str, now: float) -> float | None:
        """The log has it; returns when it was sent first, if it is one of ours."""
        sent = self._sent.pop(event_id, None)
        if sent is None:
            return None
        latency = now - sent.first
        self.echoes += Echoes(1, latency, latency)
        return sent.first

    def overdue(self, now: float, patience: float = RESEND) -> list[bytes]:
        """What has to be sent again, unchanged and in order."""
        payloads = []
        for sent in self._sent.values():
            if now >= sent.last + patience:
                sent.last = now
                self.resends += 1
                payloads.append(sent.payload)
        return payloads

    @property
    def deadline(self) -> float | None:
        """By the oldest one; those behind it were sent later."""
        oldest = next(iter(self._sent.values()), None)
        return None if oldest is None else oldest.last + RESEND


class Publisher:
    """The only way out: events through the queue of the session, the rest at once, everything checked by the table.

    `effects` is what the shell is to do, in order; `Membership` adds to it.
    """

    def __init__(self, me: str, revision: Revision, sources: MembershipSources) -> None:
        self.effects: list[ClusterEffect] = []
        self.crash_watch = CrashWatch()
        self.tally: Counter[str] = Counter()
        self.has_link = False
        self.queue = PublishQueue()
        self._me = me
        self._revision = revision
        self._sources = sources
        self._command_origin = sources.new_id()  # no session binds commands

    def knows(self, kind: str) -> bool:
        """Whether the cluster's exo has this type."""
        return kind in self._revision.table.records

    def start_session(self, session: SessionId) -> None:
        self.queue.start(self._sources.new_id(), session)

    def counters(self) -> ClusterCounters:
        tally: dict[str, Any] = dict(self.tally)
        return ClusterCounters(**tally, resends=self.queue.resends, echoes=self.queue.echoes)

    def carry_out(self, effect: ClusterEffect, now: float) -> None:
        """Publish what is to be published, and pass everything else on to the shell."""
        match effect:
            case PublishEventEffect():
                self.event(effect)
                return
            case PublishCommandEffect(tag, fields):
                self.command(tag, fields, now)
                return
            case CancelTaskEffect(_, command_id):
                self.queue.drop_chunks(command_id)
            case BeginTaskEffect():
                self.tally["tasks"] += 1
        self.effects.append(effect)

    def event(self, event: PublishEventEffect, event_id: str = "") -> None:
        self.queue.put(event_id or self._sources.new_id(), event)

    def acknowledge(self, event_id: str, now: float) -> None:
        """The log has this event, which may be ours."""
        sent_at = self.queue.acknowledge(event_id, now)
        if sent_at is not None:
            self.crash_watch.clear(sent_at)

    def flush(self, now: float) -> None:
        """Send what waits, as far as the window and the link allow."""
        if self.has_link:
            for payload in self.queue.take(now, lambda message: self._encode_event(message, now)):
                self._send(EVENTS, payload)

    def resend(self, now: float, patience: float) -> None:
        for payload in self.queue.overdue(now, patience):
            self._send(EVENTS, payload)

    def command(self, tag: str, fields: Raw, now: float) -> None:
        """Events come first, as they were meant: what a command relies on is said by then."""
        self.flush(now)
        command = {tag: {"command_id": self._sources.new_id(), **fields}}
        self._publish(COMMANDS, {"origin": self._command_origin, "command": command}, now)

    def candidate(self, candidate: ElectionMessage, now: float) -> None:
        self._publish(ELECTION, asdict(candidate), now)

    def log(self, level: Literal["info", "warning", "error"], sentence: str) -> None:
        self.effects.append(LogEffect(level, sentence))

    def take(self) -> list[ClusterEffect]:
        effects, self.effects = self.effects, []
        return effects

    def _encode_event(self, message: Raw, now: float) -> bytes:
        """The master waits for every index, so something harmless takes the place of an event that does not fit."""
        try:
            payload = self._revision.encode(EVENTS, message)
        except Mismatch as wrong:
            self._refuse(wrong)
            (fields,) = message["event"].values()
            harmless = node_info(self._me, self._sources.time_of_day(), {"MiscData": {"friendly_name": self._me}})
            message = {**message, "event": {harmless.tag: {"event_id": fields["event_id"], **harmless.fields}}}
            payload = self._revision.encode(EVENTS, message)
        self.crash_watch.record_sent(message, now)
        return payload

    def _publish(self, topic: str, message: Raw, now: float) -> None:
        try:
            payload = self._revision.encode(topic, message)
        except Mismatch as wrong:
            self._refuse(wrong)
            return
        self.crash_watch.record_sent(message, now)
        self._send(topic, payload)

    def _send(self, topic: str, payload: bytes) -> None:
        self.tally["events_out" if topic == EVENTS else "commands_out"] += 1
        self.effects.append(SendEffect(topic, payload))

    def _refuse(self, wrong: Mismatch) -> None:
        self.tally["refused"] += 1
        self.log("error", f"A message to the exo cluster was wrong and was not sent: {wrong}.")
