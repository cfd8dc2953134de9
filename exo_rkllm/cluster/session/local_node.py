"""This node's side of a session: its replica, its worker, and what the cluster is told about it and when."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from exo_rkllm.cluster.effects import CancelTaskEffect, PublishNodeInfoEffect, node_info
from exo_rkllm.cluster.serving import NodeDescription, Servable
from exo_rkllm.cluster.session.publishing import MembershipSources, Publisher
from exo_rkllm.cluster.session.replica import Replica
from exo_rkllm.cluster.wire import clean
from exo_rkllm.cluster.wire.events import Event, InputChunkReceived, Raw
from exo_rkllm.cluster.wire.requests import ImageStore
from exo_rkllm.cluster.worker import events, offers
from exo_rkllm.cluster.worker.decide import decide
from exo_rkllm.cluster.worker.state import Worker
from exo_rkllm.config.table import ErrorForm, Placement

# exo forgets a node that is silent for 30 s; one message in 5 s is plenty (reference 2.5).
SIGN_OF_LIFE = 5.0
# Every one of so many signs of life tells of the disk.
DISK_EVERY = 12
# Two signs of life of our id that are not ours, this far apart, are another board and no echo of an old life.
TWIN = 3.0
# Ids of signs of life that are kept until the log echoes them.
REMEMBERED = 256


class LocalNode:
    def __init__(
        self,
        me: str,
        facts: NodeDescription,
        publisher: Publisher,
        sources: MembershipSources,
        *,
        placement: Placement = "own",
        errors: ErrorForm = "answer",
    ) -> None:
        self.me = me
        self.facts = replace(facts, **{name: clean.text(getattr(facts, name)) for name in NodeDescription.__slots__})
        self.images = ImageStore()
        self.interfaces: tuple[Raw, ...] = ()
        self.replica = Replica(me)
        self._placement: Placement = placement
        self._errors: ErrorForm = errors
        self._publisher = publisher
        self._sources = sources
        self._models: Mapping[str, Servable] = {}
        self._spoke_at = 0.0
        self._signs = 0
        self._sign_ids: dict[str, None] = {}  # ids of our own signs of life, oldest first
        self._last_sign = ""
        self._twin_since: float | None = None
        self.worker = self._new_worker()

    def restart(self) -> None:
        """Another session: everything of the one before is dropped."""
        self.drop_work()
        self.replica = Replica(self.me)
        self._sign_ids.clear()
        self._twin_since = None

    def drop_work(self) -> None:
        """Cancel the board's tasks, and forget what the session's worker knew and had to say."""
        tasks = [one.task for one in self.worker.active_tasks()]
        self._publisher.effects += [CancelTaskEffect(task.id, task.command_id) for task in tasks]
        self._publisher.queue.stop()
        self.worker = self._new_worker()

    def apply(self, event: Event) -> None:
        self.replica.apply(event)
        if isinstance(event, InputChunkReceived):
            self.images.take(event)

    def decide(self, event: events.WorkerEvent, now: float) -> None:
        self.worker, effects = decide(self.worker, event, self.replica, now, self._sources.new_id)
        for effect in effects:
            if isinstance(effect, PublishNodeInfoEffect):
                self.introduce(now)
            else:
                self._publisher.carry_out(effect, now)

    def change_models(self, models: Sequence[Servable], now: float) -> None:
        self._models = {offers.model_id(model.id): model for model in models}
        self.decide(events.ModelsChangedEvent(self._models), now)

    # ── signs of life ────────────────────────────────────────────────────────────────────────────

    def introduce(self, now: float) -> None:
        """Tell the cluster all about this node."""
        others = (facts for node, facts in self.replica.nodes.items() if node != self.me)
        for info in self._all_infos(offers.backends(self._placement, others)):
            self.publish_info(info, now)

    def publish_info(self, info: Raw, now: float) -> None:
        event_id = self._sources.new_id()
        self._sign_ids[event_id] = None
        while len(self._sign_ids) > REMEMBERED:
            del self._sign_ids[next(iter(self._sign_ids))]
        self._last_sign, self._spoke_at = event_id, now
        self._publisher.event(node_info(self.me, self._sources.time_of_day(), info), event_id)

    def publish_sign_of_life(self, now: float) -> None:
        """Tell the cluster what it should know by now, once `next_sign_at` has come."""
        self._signs += 1
        self.publish_info(next(self._disk(), self.name) if self._signs % DISK_EVERY == 0 else self.name, now)

    @property
    def name(self) -> Raw:
        return {"MiscData": {"friendly_name": self.facts.name}}

    @property
    def addresses(self) -> Raw:
        return {"NodeNetworkInterfaces": {"ifaces": list(self.interfaces)}}

    @property
    def next_sign_at(self) -> float:
        return self._spoke_at + SIGN_OF_LIFE

    def is_ours(self, event_id: str) -> bool:
        """Whether a sign of life under our id is one of this process."""
        return event_id in self._sign_ids

    def is_latest(self, event_id: str) -> bool:
        """Whether the log has come to the last of our own words: then we have caught up with it."""
        return event_id == self._last_sign

    def has_twin(self, now: float) -> bool:
        """Somebody else gave a sign of life under our id: whether that is another board."""
        if self._twin_since is None:
            self._twin_since = now
        return now - self._twin_since >= TWIN

    @property
    def deadline(self) -> float:
        """When a sign of life is due, or a command is to be repeated."""
        return min(self.next_sign_at, *(one.due for one in self.worker.pending if self.worker.serving), math.inf)

    @property
    def deletes_instances(self) -> bool:
        """Whether the log still has instances that this node wants deleted."""
        return any(instance in self.replica.instances for instance in self.worker.deleting)

    def _new_worker(self) -> Worker:
        return Worker(self.me, self.facts.name, self._placement, self._models, errors=self._errors)

    def _all_infos(self, backends: tuple[str, ...]) -> Iterator[Raw]:
        facts = self.facts
        versions = {"os_version": facts.os_version, "os_build_version": facts.os_build}
        yield self.name
        yield {"StaticNodeInformation": {"model": facts.model, "chip": facts.chip, **versions}}
        yield {"NodeBackends": {"backends": list(backends)}}
        yield from self._disk()
        yield self.addresses
        if self._placement == "dashboard":
            # exo places nothing on a node without memory, and anything on a node with much of it (reference 4)
            size, none = {"in_bytes": offers.TOKEN_SIZE}, {"in_bytes": 0}
            yield {"ram_total": size, "ram_available": size, "swap_total": none, "swap_available": none}

    def _disk(self) -> Iterator[Raw]:
        disk = self._sources.disk()
        if disk is not None:
            total, available = ({"in_bytes": size} for size in disk)
            yield {"NodeDiskUsage": {"disk_usage": {"total": total, "available": available}}}
