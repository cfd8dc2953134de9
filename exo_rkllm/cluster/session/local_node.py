"""This node's side of a session: its replica, its worker, and what the cluster is told about it and when."""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from exo_rkllm.cluster.effects import CancelTaskEffect, PublishNodeInfoEffect, node_info, reached
from exo_rkllm.cluster.serving import NodeDescription, Servable
from exo_rkllm.cluster.session import gauges
from exo_rkllm.cluster.session.publishing import MembershipSources, Publisher
from exo_rkllm.cluster.session.replica import Replica
from exo_rkllm.cluster.session.view import ClusterView, Phase, instance_views, node_views, offer_views
from exo_rkllm.cluster.wire import clean
from exo_rkllm.cluster.wire.events import Event, InputChunkReceived, NodeGatheredInfo, NodeTimedOut, Raw
from exo_rkllm.cluster.wire.requests import ImageStore
from exo_rkllm.cluster.worker import events, offers
from exo_rkllm.cluster.worker.decide import decide
from exo_rkllm.cluster.worker.state import Worker
from exo_rkllm.config.table import ErrorForm, Placement

# exo forgets a node that is silent for 30 s; one message in 5 s is plenty (reference 2.5).
SIGN_OF_LIFE = 5.0
# exo's own pace for metrics. They are read that often while the board works, and told where they changed.
METRICS_EVERY = 1.0
# Every one of so many signs of life tells of the disk.
DISK_EVERY = 12
# Two signs of life of our id that are not ours, this far apart, are another board and no echo of an old life.
TWIN = 3.0
# exo's edges have a port, of its API, which nothing connects to.
EXO_API = 52415
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
        self.alive: set[str] = set()  # exo nodes that show that they are there
        self._placement: Placement = placement
        self._errors: ErrorForm = errors
        self._publisher = publisher
        self._sources = sources
        self._models: Mapping[str, Servable] = {}
        self._spoke_at = 0.0
        self._metrics: Raw | None = None  # as last told
        self._reached: set[str] | None = None  # nodes that the cluster was told of; None before it was told anything
        self.shows_gauges = self.shows_edges = True  # unless those of this cluster have another shape
        self._looked_at = 0.0
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
        self._metrics = self._reached = None
        self.shows_gauges = self.shows_edges = True
        self._twin_since = None

    def drop_work(self) -> None:
        """Cancel the board's tasks, and forget what the session's worker knew and had to say."""
        tasks = [one.task for one in self.worker.active_tasks()]
        self._publisher.effects += [CancelTaskEffect(task.id, task.command_id) for task in tasks]
        self._publisher.queue.stop()
        self.worker = self._new_worker()

    def apply(self, event: Event) -> None:
        self.replica.apply(event)
        match event:
            case InputChunkReceived():
                self.images.take(event)
            case NodeGatheredInfo(node) if self._reached is not None and node not in self._reached:
                self._reach(node)
            case NodeTimedOut(node) if self._reached is not None:
                self._reached.discard(node)

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

    # ── the view for people ──────────────────────────────────────────────────────────────────────

    def view(self, master: str) -> ClusterView:
        """What the replica and the worker know; the membership adds where it stands."""
        return ClusterView(
            Phase.OFF,
            node_id=self.me,
            name=self.facts.name,
            master=self.replica.name(master),
            nodes=node_views(self.replica, self.me, master),
            instances=instance_views(self.replica, self.me),
            offers=offer_views(self.worker, self.replica),
            tasks=sum(1 for _ in self.worker.active_tasks()),
        )

    # ── signs of life ────────────────────────────────────────────────────────────────────────────

    def introduce(self, now: float) -> None:
        """Tell the cluster all about this node."""
        self._metrics, self._reached = None, set()
        others = (facts for node, facts in self.replica.nodes.items() if node != self.me)
        for info in self._all_infos(offers.backends(self._placement, others)):
            self.publish_info(info, now)
        for node in self.replica.nodes:
            self._reach(node)

    def publish_info(self, info: Raw, now: float) -> None:
        event_id = self._sources.new_id()
        self._sign_ids[event_id] = None
        while len(self._sign_ids) > REMEMBERED:
            del self._sign_ids[next(iter(self._sign_ids))]
        self._last_sign, self._spoke_at = event_id, now
        self._publisher.event(node_info(self.me, self._sources.time_of_day(), info), event_id)

    def speak(self, now: float) -> None:
        """Say something that the log has to echo: what is new about the board, else its name."""
        self.publish_info(self._news() or self.name, now)

    def publish_sign_of_life(self, now: float) -> None:
        """Tell the cluster what it should know by now, once `next_sign_at` has come."""
        if now >= self._spoke_at + SIGN_OF_LIFE:
            self._signs += 1
            disk = next(self._disk(), None) if self._signs % DISK_EVERY == 0 else None
            self.speak(now) if disk is None else self.publish_info(disk, now)
        elif (news := self._news()) is not None:
            self.publish_info(news, now)
        self._looked_at = now

    @property
    def name(self) -> Raw:
        return {"MiscData": {"friendly_name": self.facts.name}}

    @property
    def addresses(self) -> Raw:
        return {"NodeNetworkInterfaces": {"ifaces": list(self.interfaces)}}

    @property
    def next_sign_at(self) -> float:
        """While it works, the board's gauges are looked at more often than it has to speak."""
        quiet = self._spoke_at + SIGN_OF_LIFE
        working = self.shows_gauges and any(one.phase == "running" for one in self.worker.active_tasks())
        return min(quiet, max(self._spoke_at, self._looked_at) + METRICS_EVERY) if working else quiet

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

    def _reach(self, node: str) -> None:
        """Tell that this node reaches one of exo's, for the line between them in exo's dashboard.

        exo's own way, each node asking all others for `/node_id`, gives its nodes one more edge, and exo prefers nodes
        with a single one when it places its models.
        """
        if self._reached is None or not self.shows_edges or node == self.me:
            return
        facts = self.replica.nodes[node]
        address = next(filter(None, map(multiaddr, facts.addresses or ())), None)
        is_exo = facts.backends if self._publisher.knows("NodeBackends") else node in self.alive
        if is_exo and address is not None:
            self._reached.add(node)
            self._publisher.event(reached(self.me, node, address))

    def _new_worker(self) -> Worker:
        return Worker(self.me, self.facts.name, self._placement, self._models, errors=self._errors)

    def _all_infos(self, backends: tuple[str, ...]) -> Iterator[Raw]:
        facts = self.facts
        versions = {"os_version": facts.os_version, "os_build_version": facts.os_build}
        yield self.name
        yield {"StaticNodeInformation": {"model": facts.model, "chip": facts.chip, **versions}}
        if self._publisher.knows("NodeBackends"):
            yield {"NodeBackends": {"backends": list(backends)}}
        yield from self._disk()
        yield self.addresses
        if (news := self._news()) is not None:
            yield news
        elif self._placement == "dashboard":
            # exo places nothing on a node without memory, and anything on a node with much of it (reference 4)
            yield gauges.memory(offers.TOKEN_SIZE, offers.TOKEN_SIZE)

    def _news(self) -> Raw | None:
        """The board's gauges, if they are not what was told last."""
        now = self._sources.gauges() if self.shows_gauges else None
        if now is None:
            return None
        told, self._metrics = self._metrics, gauges.metrics(now, offers.placeable(self._placement))
        return None if self._metrics == told else self._metrics

    def _disk(self) -> Iterator[Raw]:
        disk = self._sources.disk()
        if disk is not None:
            total, available = ({"in_bytes": size} for size in disk)
            yield {"NodeDiskUsage": {"disk_usage": {"total": total, "available": available}}}


def multiaddr(address: str) -> Raw | None:
    """Of exo's API at an IP address, as exo writes edges; None for an address of one link or host alone."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return None
    if ip.is_link_local or ip.is_loopback:
        return None
    kind = f"ip{ip.version}"
    text = f"/{kind}/{ip}/tcp/{EXO_API}"
    return {"address": text, "address_type": kind, "ip_address": str(ip), "port": EXO_API}
