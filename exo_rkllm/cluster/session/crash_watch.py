"""Whether exo nodes end of what we send them: an exo that cannot parse a message dies of it (reference 2.9)."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from exo_rkllm.cluster.wire.messages import (
    ChunkGenerated,
    Envelope,
    ForwardedCommand,
    ForwardedEvent,
    NodeDownloadProgress,
    NodeGatheredInfo,
    RunnerStatusUpdated,
    TaskStatusUpdated,
)

# Nodes that end within this time of a new kind of message from us died of it (reference 2.9: within 4 s).
POISON = 5.0
# A link that only moved to another node is back by then, with the tokens of all nodes.
RECOVERY = 1.5
# The cluster was certainly alive when we spoke if it was heard so shortly before.
ALIVE = 2.5


@dataclass(frozen=True, slots=True)
class Loss:
    """Exo nodes went while messages of new kinds were under way to them."""

    nodes: frozenset[str]
    kinds: tuple[str, ...]
    judge_at: float


class CrashWatch:
    """Kinds of message that nobody has shown to survive, and the loss of nodes that is being looked into."""

    def __init__(self) -> None:
        self._sent: set[str] = set()
        self._unproven: dict[str, float] = {}
        self._loss: Loss | None = None
        self._heard_at = 0.0

    @property
    def deadline(self) -> float | None:
        return self._loss.judge_at if self._loss else None

    def heard(self, now: float) -> None:
        self._heard_at = now

    def sent(self, envelope: Envelope, now: float) -> None:
        kind = kind_of(envelope)
        if kind not in self._sent:
            self._sent.add(kind)
            if now - self._heard_at < ALIVE:
                self._unproven[kind] = now

    def proven(self, sent_at: float) -> None:
        """The master lives on after what was sent up to then."""
        if self._unproven:
            self._unproven = {kind: at for kind, at in self._unproven.items() if at > sent_at}

    def lost(self, alive: AbstractSet[str], now: float) -> None:
        """Some of these nodes are going: was it something we said?"""
        kinds = tuple(kind for kind, at in self._unproven.items() if now - at < POISON)
        if kinds and self._loss is None and alive:
            self._loss = Loss(frozenset(alive), kinds, now + RECOVERY)

    def judged(self, alive: AbstractSet[str], now: float) -> tuple[str, ...]:
        """A while after, the kinds that ended them all: those who are back, or were never gone, prove another cause."""
        loss = self._loss
        if loss is None or now < loss.judge_at:
            return ()
        self._loss = None
        return () if loss.nodes & alive else loss.kinds


def kind_of(envelope: Envelope) -> str:
    """What kind of message it is to the one who parses it: the names of its tagged parts."""
    if isinstance(envelope, ForwardedCommand):
        return type(envelope.command).__name__
    if not isinstance(envelope, ForwardedEvent):
        return type(envelope).__name__
    event = envelope.event
    match event:
        case NodeGatheredInfo(info=part) | RunnerStatusUpdated(runner_status=part) | ChunkGenerated(chunk=part):
            return f"{type(event).__name__}/{type(part).__name__}"
        case NodeDownloadProgress(download_progress=part):
            return f"{type(event).__name__}/{type(part).__name__}"
        case TaskStatusUpdated(task_status=status):
            return f"TaskStatusUpdated/{status}"
