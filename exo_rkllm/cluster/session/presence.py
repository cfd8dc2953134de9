"""What the cluster is told about this node, when, and whether somebody else speaks under its id."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone

from exo_rkllm.cluster.serving import BoardFacts
from exo_rkllm.cluster.wire import clean
from exo_rkllm.cluster.wire.events import Raw
from exo_rkllm.cluster.worker import offers
from exo_rkllm.config.table import Placement

# exo forgets a node that is silent for 30 s; one message in 5 s is plenty (reference 2.5).
SIGN_OF_LIFE = 5.0
# Every one of so many signs of life tells of the disk.
DISK_EVERY = 12
# Two signs of life of our id that are not ours, this far apart, are another board and no echo of an old life.
TWIN = 3.0
# Ids of signs of life that are kept until the log echoes them.
REMEMBERED = 256


@dataclass(frozen=True, slots=True)
class MembershipSources:
    """Where ids, the time of day and the disk's size (total, free) come from; tests and replays bring their own."""

    new_id: Callable[[], str] = lambda: str(uuid.uuid4())
    time_of_day: Callable[[], str] = lambda: str(datetime.now(timezone.utc))
    disk: Callable[[], tuple[int, int] | None] = lambda: None


@dataclass(slots=True)
class Presence:
    """This node's signs of life in one session."""

    facts: BoardFacts
    placement: Placement
    sources: MembershipSources
    interfaces: tuple[Raw, ...] = ()
    _spoke_at: float = 0.0
    _signs: int = 0
    _ids: dict[str, None] = field(default_factory=dict)  # ids of our own, oldest first
    _last_id: str = ""
    _twin_since: float | None = None

    def __post_init__(self) -> None:
        cleaned = {name: clean.text(getattr(self.facts, name)) for name in BoardFacts.__slots__}
        self.facts = replace(self.facts, **cleaned)

    def restart(self) -> None:
        """Another session: whose signs of life were heard before does not matter any more."""
        self._ids.clear()
        self._twin_since = None

    def everything(self, backends: tuple[str, ...]) -> Iterator[Raw]:
        """All that the cluster is told when this node introduces itself."""
        facts = self.facts
        versions = {"os_version": facts.os_version, "os_build_version": facts.os_build}
        yield self.name
        yield {"StaticNodeInformation": {"model": facts.model, "chip": facts.chip, **versions}}
        yield {"NodeBackends": {"backends": list(backends)}}
        yield from self._disk()
        yield self.addresses
        if self.placement == "dashboard":
            # exo places nothing on a node without memory, and anything on a node with much of it (reference 4)
            size, none = {"in_bytes": offers.TOKEN_SIZE}, {"in_bytes": 0}
            yield {"ram_total": size, "ram_available": size, "swap_total": none, "swap_available": none}

    @property
    def name(self) -> Raw:
        return {"MiscData": {"friendly_name": self.facts.name}}

    @property
    def addresses(self) -> Raw:
        return {"NodeNetworkInterfaces": {"ifaces": list(self.interfaces)}}

    def sign_of_life(self) -> Raw:
        self._signs += 1
        return next(self._disk(), self.name) if self._signs % DISK_EVERY == 0 else self.name

    @property
    def deadline(self) -> float:
        """When the next sign of life is due."""
        return self._spoke_at + SIGN_OF_LIFE

    def record(self, event_id: str, now: float) -> None:
        self._ids[event_id] = None
        while len(self._ids) > REMEMBERED:
            del self._ids[next(iter(self._ids))]
        self._last_id, self._spoke_at = event_id, now

    def is_ours(self, event_id: str) -> bool:
        return event_id in self._ids

    def is_latest(self, event_id: str) -> bool:
        """Whether the log has come to the last of our own words: then we have caught up with it."""
        return event_id == self._last_id

    def has_twin(self, now: float) -> bool:
        """Somebody else gave a sign of life under our id: whether that is another board."""
        if self._twin_since is None:
            self._twin_since = now
        return now - self._twin_since >= TWIN

    def _disk(self) -> Iterator[Raw]:
        disk = self.sources.disk()
        if disk is not None:
            total, available = disk
            yield {
                "NodeDiskUsage": {"disk_usage": {"total": {"in_bytes": total}, "available": {"in_bytes": available}}}
            }
