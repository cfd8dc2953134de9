"""The queue of one model: clients take turns, whatever number of requests each of them throws in."""

from __future__ import annotations

from bisect import insort
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

# A round in which so many clients were served is declared over, or it would never end where every client is new.
REMEMBERED = 1000
# Rounds that a question which can wait is behind its client's others.
BACKGROUND_ROUNDS = 4
# How many requests may be preferred to one for the sake of what is in the KV cache.
MOST_OVERTAKEN = 2


@dataclass(frozen=True, slots=True)
class QueueEntry:
    """Tickets are handed out in the order of arrival, over all models.

    `conversation` are the keys of `conversation_keys`. Nobody waits for a `background` question.
    """

    ticket: int
    client: str
    since: float
    keep_alive: float | None = None
    background: bool = False
    conversation: tuple[int, ...] = ()
    round: int = 0
    overtaken: int = 0


@dataclass(frozen=True, slots=True)
class FairQueue:
    """Fair queueing with one request as the unit of cost.

    A client's requests join one round each, never a round before the one being served: a newcomer waits for one
    request of everybody who is there, and not for the forty requests of one of them. Within a round, and among the
    requests of one client, whoever continues what is in the KV cache is preferred, twice in a row at most.
    """

    entries: tuple[QueueEntry, ...] = ()
    round: int = 0
    latest: Mapping[str, int] = field(default_factory=dict)  # the round of each client's latest request

    def __len__(self) -> int:
        return len(self.entries)

    def join(self, entry: QueueEntry) -> FairQueue:
        first = max(self.round, self.latest.get(entry.client, -1) + 1)
        entries = list(self.entries)
        if entry.background:  # which takes no turn from the client's own questions
            insort(entries, replace(entry, round=first + BACKGROUND_ROUNDS), key=_order)
            return replace(self, entries=tuple(entries))
        insort(entries, replace(entry, round=first), key=_order)
        return replace(self, entries=tuple(entries), latest={**self.latest, entry.client: first})

    def start(self, ticket: int) -> FairQueue:
        """Without the entry whose turn came; rounds that are over are forgotten."""
        entry = self.entry(ticket)
        place = self.entries.index(entry)
        passed = tuple(replace(other, overtaken=other.overtaken + 1) for other in self.entries[:place])
        entries = (*passed, *self.entries[place + 1 :])
        now = max(self.round, entry.round) + (len(self.latest) > REMEMBERED)
        return FairQueue(entries, now, {client: last for client, last in self.latest.items() if last >= now})

    def leave(self, tickets: Collection[int]) -> FairQueue:
        """Without those of these entries that are here; their clients' later ones move up, so that giving up costs no
        turn."""
        gone: Counter[str] = Counter()  # so many turns of each client, in the order of its rounds
        entries: list[QueueEntry] = []
        for entry in self.entries:
            if entry.ticket in tickets:
                gone[entry.client] += not entry.background
            else:
                before = gone[entry.client] if gone else 0
                entries.append(replace(entry, round=entry.round - before) if before else entry)
        if not gone:
            return self
        latest = {client: last - gone[client] for client, last in self.latest.items()}
        return replace(self, entries=tuple(sorted(entries, key=_order)), latest=latest)

    def entry(self, ticket: int) -> QueueEntry:
        return next(entry for entry in self.entries if entry.ticket == ticket)

    def count(self, client: str) -> int:
        return sum(entry.client == client for entry in self.entries)

    def next(self, before: int | None = None, hot: int | None = None) -> QueueEntry | None:
        """Whose turn it is; `before` passes over tickets that came at or after that one, and `hot` is the key of the
        conversation in the KV cache."""
        waiting = [entry for entry in self.entries if before is None or entry.ticket < before]
        if not waiting:
            return None
        head = waiting[0]
        if hot is None or head.overtaken >= MOST_OVERTAKEN:
            return head
        equals = (one for one in waiting if one.round == head.round or one.client == head.client)
        return next((one for one in equals if hot in one.conversation), head)

    @property
    def oldest(self) -> int | None:
        return min((entry.ticket for entry in self.entries), default=None)


def _order(entry: QueueEntry) -> tuple[int, int]:
    return entry.round, entry.ticket


EMPTY = FairQueue()
