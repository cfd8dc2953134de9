"""This node's side of a session: the replica that it reads, the worker that decides, and what both publish."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from exo_rkllm.cluster.effects import CancelTaskEffect, PublishNodeInfoEffect, node_info
from exo_rkllm.cluster.serving import Servable
from exo_rkllm.cluster.session.presence import MembershipSources, Presence
from exo_rkllm.cluster.session.publishing import Publisher
from exo_rkllm.cluster.session.replica import Replica
from exo_rkllm.cluster.wire.events import Event, InputChunkReceived, Raw
from exo_rkllm.cluster.wire.requests import ImageStore
from exo_rkllm.cluster.worker import events, offers
from exo_rkllm.cluster.worker.decide import decide
from exo_rkllm.cluster.worker.state import Worker


class LocalNode:
    def __init__(self, me: str, presence: Presence, publisher: Publisher, sources: MembershipSources) -> None:
        self.me = me
        self.images = ImageStore()
        self.presence = presence
        self.replica = Replica(me)
        self._publisher = publisher
        self._sources = sources
        self._models: Mapping[str, Servable] = {}
        self.worker = self._new_worker()

    def restart(self) -> None:
        """Another session: everything of the one before is dropped."""
        self.drop_work()
        self.replica = Replica(self.me)
        self.presence.restart()

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

    def introduce(self, now: float) -> None:
        """Tell the cluster all about this node."""
        others = (facts for node, facts in self.replica.nodes.items() if node != self.me)
        for info in self.presence.everything(offers.backends(self.presence.placement, others)):
            self.publish_info(info, now)

    def publish_info(self, info: Raw, now: float) -> None:
        event_id = self._sources.new_id()
        self.presence.record(event_id, now)
        self._publisher.event(node_info(self.me, self._sources.time_of_day(), info), event_id)

    @property
    def deadline(self) -> float:
        """When a sign of life is due, or a command is to be repeated."""
        return min(self.presence.deadline, *(one.due for one in self.worker.pending if self.worker.serving), math.inf)

    @property
    def deletes_instances(self) -> bool:
        """Whether the log still has instances that this node wants deleted."""
        return any(instance in self.replica.instances for instance in self.worker.deleting)

    def _new_worker(self) -> Worker:
        return Worker(self.me, self.presence.facts.name, self.presence.placement, self._models)
