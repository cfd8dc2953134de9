"""Events on their way to the master: numbered, few at a time, sent again until the log echoes them."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

from exo_rkllm.cluster.session.view import Echoes
from exo_rkllm.cluster.wire.messages import (
    Chunk,
    ChunkGenerated,
    Event,
    ForwardedEvent,
    PrefillProgressChunk,
    Session,
    TokenChunk,
)

# More unanswered events than this overflow exo's 1024-slot channels and cost seconds (reference 6).
WINDOW = 200
# exo's own wait before it sends an event again (reference 2.3).
RESEND = 5.0


@dataclass(slots=True)
class _Sent:
    envelope: ForwardedEvent
    first: float
    last: float


def merged(earlier: Chunk, later: Chunk) -> Chunk | None:
    """Two chunks of one answer as one, where nothing is lost by it."""
    if isinstance(earlier, PrefillProgressChunk) and isinstance(later, PrefillProgressChunk):
        return later
    if not (isinstance(earlier, TokenChunk) and isinstance(later, TokenChunk)) or earlier.finish_reason is not None:
        return None
    if earlier.is_thinking != later.is_thinking and (later.text or later.finish_reason is None):
        return None
    return replace(
        later,
        text=earlier.text + later.text,
        token_id=later.token_id if later.text else earlier.token_id,
        is_thinking=earlier.is_thinking,
    )


@dataclass(slots=True)
class _Waiting:
    event: Event


class PublishQueue:
    """One a session: the master ignores an origin that starts again, and dies of one that contradicts itself."""

    def __init__(self, origin: str, session: Session) -> None:
        self.origin = origin
        self.session = session
        self.resends = 0
        self.echoes = Echoes()
        self._next = 0
        self._queue: deque[_Waiting] = deque()
        self._tails: dict[str, _Waiting] = {}  # a command's latest waiting chunk
        self._sent: dict[str, _Sent] = {}

    @property
    def unechoed(self) -> int:
        return len(self._sent)

    @property
    def idle(self) -> bool:
        return not self._queue and not self._sent

    def put(self, event: Event) -> None:
        """A chunk joins the one of its answer that still waits."""
        if isinstance(event, ChunkGenerated):
            tail = self._tails.get(event.command_id)
            if tail is not None and isinstance(tail.event, ChunkGenerated):
                together = merged(tail.event.chunk, event.chunk)
                if together is not None:
                    tail.event = replace(tail.event, chunk=together)
                    return
            waiting = self._tails[event.command_id] = _Waiting(event)
        else:
            waiting = _Waiting(event)
        self._queue.append(waiting)

    def drop_chunks(self, command_id: str) -> None:
        """Forget what has not been sent yet to somebody who has gone."""
        self._tails.pop(command_id, None)
        self._queue = deque(
            waiting
            for waiting in self._queue
            if not (isinstance(waiting.event, ChunkGenerated) and waiting.event.command_id == command_id)
        )

    def take(self, now: float) -> list[ForwardedEvent]:
        """What may be sent now for the first time."""
        taken = []
        while self._queue and len(self._sent) < WINDOW:
            waiting = self._queue.popleft()
            event = waiting.event
            if isinstance(event, ChunkGenerated) and self._tails.get(event.command_id) is waiting:
                del self._tails[event.command_id]
            envelope = ForwardedEvent(self._next, self.origin, self.session, event)
            self._next += 1
            self._sent[event.event_id] = _Sent(envelope, now, now)
            taken.append(envelope)
        return taken

    def echoed(self, event_id: str, now: float) -> float | None:
        """The log has it; returns when it was sent first, if it is one of ours."""
        sent = self._sent.pop(event_id, None)
        if sent is None:
            return None
        took = now - sent.first
        self.echoes += Echoes(1, took, took)
        return sent.first

    def overdue(self, now: float, patience: float = RESEND) -> list[ForwardedEvent]:
        """What has to be sent again, unchanged and in order."""
        again = []
        for sent in self._sent.values():
            if now >= sent.last + patience:
                sent.last = now
                self.resends += 1
                again.append(sent.envelope)
        return again

    @property
    def deadline(self) -> float | None:
        """By the oldest one; those behind it were sent later."""
        oldest = next(iter(self._sent.values()), None)
        return None if oldest is None else oldest.last + RESEND
