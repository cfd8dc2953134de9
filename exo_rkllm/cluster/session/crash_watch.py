"""Whether exo nodes end of what we send them: an exo that cannot parse a message dies of it (reference 2.9)."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from exo_rkllm.cluster.wire.events import Raw

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
        self._kinds: set[str] = set()
        self._unproven: dict[str, float] = {}
        self._loss: Loss | None = None
        self._received_at = 0.0

    @property
    def deadline(self) -> float | None:
        return self._loss.judge_at if self._loss else None

    def record_received(self, now: float) -> None:
        self._received_at = now

    def record_sent(self, message: Raw, now: float) -> None:
        kind = kind_of(message)
        if kind not in self._kinds:
            self._kinds.add(kind)
            if now - self._received_at < ALIVE:
                self._unproven[kind] = now

    def clear(self, sent_at: float) -> None:
        """The master lives on after what was sent up to then."""
        if self._unproven:
            self._unproven = {kind: at for kind, at in self._unproven.items() if at > sent_at}

    def record_loss(self, nodes: AbstractSet[str], now: float) -> None:
        """Record a possible crash of these nodes that a message of ours may have caused."""
        kinds = tuple(kind for kind, at in self._unproven.items() if now - at < POISON)
        if kinds and self._loss is None and nodes:
            self._loss = Loss(frozenset(nodes), kinds, now + RECOVERY)

    def verdict(self, alive: AbstractSet[str], now: float) -> tuple[str, ...]:
        """A while after a loss, the kinds that ended all nodes; one that is back, or never went, clears them."""
        loss = self._loss
        if loss is None or now < loss.judge_at:
            return ()
        self._loss = None
        return () if loss.nodes & alive else loss.kinds


def kind_of(message: Raw) -> str:
    """What kind of message it is to the one who parses it, by its tagged parts: RunnerStatusUpdated/RunnerReady."""
    tagged = message.get("event") or message.get("command")
    if tagged is None:
        return "ElectionMessage"
    ((tag, fields),) = tagged.items()
    for name in ("chunk", "info", "runner_status", "task_status", "download_progress", "task"):
        if name in fields:
            part = fields[name]
            inner = part if isinstance(part, str) else next(iter(part)) if len(part) == 1 else "MemoryUsage"
            return f"{tag}/{inner}"
    return str(tag)
