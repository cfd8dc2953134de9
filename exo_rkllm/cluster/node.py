"""The exo node of a board: sockets, timers and running tasks around `Membership`, which decides."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

from exo_rkllm.cluster.discovery.search import START_OVER, ClusterSearch
from exo_rkllm.cluster.discovery.transports import Transport
from exo_rkllm.cluster.effects import (
    BeginTaskEffect,
    CancelTaskEffect,
    ClusterEffect,
    DeclareTokenEffect,
    LoadModelEffect,
    LogEffect,
    QueryNodesEffect,
    SendEffect,
    StayOutEffect,
)
from exo_rkllm.cluster.identity import KnownClusters, NodeIdentity
from exo_rkllm.cluster.runs import Answers, TaskRuns
from exo_rkllm.cluster.serving import BoardGauges, ModelServing, NodeDescription, Servable, disk_usage
from exo_rkllm.cluster.session.libp2p_link import LibP2pLink
from exo_rkllm.cluster.session.link import Alive, Link, Linked, LinkFailed, TopicMessage
from exo_rkllm.cluster.session.membership import Membership
from exo_rkllm.cluster.session.node_query import Inspection, NodeAnswer, query_nodes
from exo_rkllm.cluster.session.publishing import MembershipSources
from exo_rkllm.cluster.session.view import Announcement, ClusterView, Phase, unconfirmed
from exo_rkllm.cluster.session.zenoh_link import ZenohLink
from exo_rkllm.cluster.wire.revisions import Revision, supported
from exo_rkllm.config.table import ClusterSettings
from exo_rkllm.errors import ExoRkllmError

# Between two attempts to connect.
RETRY = 0.5
# zenoh goes on to the next node it knows within 0.2 s; after this it knows none that answers.
MOVE_ON = 1.5
# Goodbyes that the log has not echoed by then are not waited for.
GOODBYE = 1.5


class ClusterNode:
    """Starts and stops once; `view` shows its state."""

    def __init__(
        self,
        settings: ClusterSettings,
        facts: NodeDescription,
        serving: ModelServing,
        folder: Path,
        *,
        models_folder: Path | None = None,
        gauges: Callable[[], BoardGauges | None] = lambda: None,
        zenoh_link: Callable[[], Link] = ZenohLink,
        revision: Revision | None = None,
    ) -> None:
        self.settings = settings
        self._log = logging.getLogger("exo_rkllm.cluster")
        self._serving = serving
        self._facts = facts
        self._sources = MembershipSources(disk=lambda: disk_usage(models_folder or Path("/")), gauges=gauges)
        self._identity = NodeIdentity(folder)
        self._known_clusters = KnownClusters(folder)
        self._zenoh_link = zenoh_link
        self._revision_of = revision
        self.node_id = self._identity.node_id()
        self.search = ClusterSearch(settings, self.node_id, self)
        self._inspection = Inspection(settings.api_port)
        self.membership = self._new_membership()
        self._announcement: Announcement | None = None
        self._endpoints: tuple[str, ...] = ()
        self._link_is_up = False
        self._has_endpoints = asyncio.Event()  # there is something to connect to
        self._reopen = asyncio.Event()  # the link is to be opened anew
        self._leaving = False
        self._goodbye_heard = asyncio.Event()  # our goodbyes were heard
        self._tasks: set[asyncio.Task[None]] = set()
        self._models: tuple[Servable, ...] = ()
        self._timer: asyncio.TimerHandle | None = None
        self._relink: asyncio.TimerHandle | None = None

    # ── life ─────────────────────────────────────────────────────────────────────────────────────

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._runs = TaskRuns(self._serving, self._deliver)
        self._connect()
        self.search.start()
        if self.search.endpoints():
            self._has_endpoints.set()
        self._spawn(self._watch_models())
        if self.membership.phase is Phase.OUT:
            self._log.warning("Staying out of the exo cluster: %s", self.membership.sentence)

    async def stop(self) -> None:
        """Say goodbye to the cluster, wait for its echo for at most GOODBYE seconds, and close everything."""
        self._leaving = True
        self._do(self.membership.leave(self._now()))
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._goodbye_heard.wait(), GOODBYE)
        for handle in (self._timer, self._relink):
            if handle is not None:
                handle.cancel()
        self.search.close()
        self._inspection.forget()
        running = list(self._tasks)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, self._runs.end(), return_exceptions=True)
        await self._link.close()

    def join(self) -> None:
        """The operator wants the board in this cluster, with all its models."""
        if not self.search.is_named and self.membership.may_publish:
            self._known_clusters.add(self.search.namespace, confirmed=True)
            self._announcement = None
        self._do(self.membership.invite(self._now()))

    def view(self) -> ClusterView:
        view = self.membership.view(self._now())
        sentence, hint = self.search.why_alone() if view.phase is Phase.SEARCHING else (view.sentence, view.hint)
        return replace(
            view,
            namespace=self.search.namespace,
            other_clusters=self.search.others(),
            endpoints=self._endpoints,
            announcement=None if view.phase is Phase.OUT else self._announcement,
            sentence=sentence,
            hint=hint,
        )

    # ── which cluster ────────────────────────────────────────────────────────────────────────────

    def _new_membership(self) -> Membership:
        """In a cluster of the transport that was chosen."""
        settings, transport = self.settings, self.search.transport
        made = Membership(
            self.node_id,
            self._revision_of or next(one for one in supported() if one.transport == transport.value),
            self._facts,
            placement=settings.placement,
            errors=settings.errors,
            sources=self._sources,
            stay_out=self._identity.stay_out(),
        )
        made.may_publish = self.search.is_named
        return made

    def _connect(self) -> None:
        """Link to nodes of the transport that was chosen, as soon as there are any."""
        is_zenoh = self.search.transport is Transport.ZENOH
        self._link = self._zenoh_link() if is_zenoh else LibP2pLink(self.search.wanted.libp2p)
        self._linking = [self._spawn(work) for work in (self._keep_linked(), self._receive())]

    def transport_likely(self, endpoints: tuple[str, ...]) -> None:
        self._inspection.begin(endpoints)

    def transport_chosen(self) -> None:
        """Begin anew with the other transport: nothing of this membership means anything there."""
        self._on_link(up=False)
        if self._relink is not None:
            self._relink.cancel()
        for task in self._linking:
            task.cancel()
        self._spawn(self._link.close())
        self._do(self.membership.abandon())
        self.membership = self._new_membership()
        self._connect()
        self._has_endpoints.set()
        now = self._now()
        self._do(self.membership.models_changed(self._models, now))
        self._do(self.membership.interfaces_changed(self.search.interfaces.addresses(), now))

    def cluster_chosen(self) -> None:
        self._announce(self.search.namespace)
        self._do(self.membership.permit(self._now()))
        self.search.linked(up=self._link_is_up)

    def cluster_ambiguous(self) -> None:
        self._has_endpoints.clear()
        self._reopen.set()
        self._on_link(up=False)

    def endpoint_found(self, endpoint: str) -> None:
        if self._inspects and not self._link_is_up:
            self._reopen.set()  # it is asked what it is before it is connected to
        else:
            self._link.meet(endpoint)
        self._has_endpoints.set()

    def interfaces_changed(self) -> None:
        self._do(self.membership.interfaces_changed(self.search.interfaces.addresses(), self._now()))

    def link_suspect(self) -> None:
        self._reopen.set()

    def _announce(self, namespace: str) -> None:
        if self.membership.phase is Phase.OUT:
            return
        new, confirmed = self._known_clusters.add(namespace)
        self._announcement = None if confirmed else unconfirmed(namespace)
        if new and self._announcement is not None:
            self._log.warning("%s %s.", self._announcement.sentence, self._announcement.hint)
        else:
            self._log.info("Joining the exo cluster %s.", namespace)

    # ── the link ─────────────────────────────────────────────────────────────────────────────────

    async def _keep_linked(self) -> None:
        failures = 0
        while True:
            await self._has_endpoints.wait()
            endpoints = self.search.endpoints()
            if not self._has_endpoints.is_set() or not endpoints:
                self._has_endpoints.clear()
                continue  # cleared again before this task ran
            if self._inspects:
                await self._inspection.end(endpoints)
                endpoints = self.search.endpoints()
            self._reopen.clear()
            # zenoh spends its time on the first one, dead or not: each attempt begins with another one
            turn = failures % len(endpoints)
            try:
                await self._link.open(endpoints[turn:] + endpoints[:turn])
            except LinkFailed as problem:
                self._log.debug("%s", problem.sentence)
                failures += 1
                await asyncio.sleep(RETRY)
                continue
            failures = 0
            self._endpoints = endpoints
            await self._reopen.wait()
            # nothing more is received of a link that is given up, not even that it is down
            self._on_link(up=False)
            if not self._has_endpoints.is_set():
                await self._link.close()

    async def _receive(self) -> None:
        while True:
            for incoming in await self._link.receive():
                match incoming:
                    case TopicMessage(topic, payload):
                        self._do(self.membership.receive(topic, payload, self._now()))
                    case Alive(node, there):
                        self._do(self.membership.liveliness(node, self._now(), alive=there))
                    case Linked(up):
                        self._on_link(up=up)

    def _on_link(self, *, up: bool) -> None:
        if up == self._link_is_up:
            return
        self._link_is_up = up
        if not up:
            self._inspection.forget()
        if self._relink is not None:
            self._relink.cancel()
            self._relink = None
        now = self._now()
        self._do(self.membership.link_up(now) if up else self.membership.link_down(now))
        self.search.linked(up=up)
        if not up:
            self._relink = self._loop.call_later(MOVE_ON, self._still_down, now)

    def _still_down(self, since: float) -> None:
        """Open the link anew if new endpoints were discovered: zenoh goes on trying those that it was opened with."""
        self._relink = None
        fresh = set(self.search.endpoints()) - set(self._endpoints)
        if fresh or self._now() - since >= START_OVER:
            self._reopen.set()
            since = self._now()
        self._relink = self._loop.call_later(MOVE_ON, self._still_down, since)
        self.search.reconsider()

    async def _query_nodes(self, query: QueryNodesEffect) -> None:
        addresses = {**self.membership.local.replica.addresses(), **await self._link.addresses()}
        reachable = {node: tuple(filter(self._may_query, told)) for node, told in addresses.items()}
        if self._inspects:
            answer = await query_nodes(replace(query, openapi=False), reachable, self.settings.api_port)
            document = self._inspection.document if query.openapi else None
            if document is not None:
                answer = replace(answer or NodeAnswer(query.nodes[0], None), openapi=document)
        else:
            answer = await query_nodes(query, reachable, self.settings.api_port)
        self._do(self.membership.node_answered(answer, self._now()))

    @property
    def _inspects(self) -> bool:
        """Whether nodes are asked for their openapi.json before they are connected to."""
        return self.search.transport is Transport.LIBP2P

    def _may_query(self, address: str) -> bool:
        """Nodes tell addresses of themselves. Beyond our networks they are used only if [cluster] names nodes there."""
        _, _, scope = address.partition("%")
        index = int(scope) if scope.isdecimal() else socket.if_nametoindex(scope) if scope else 0
        return bool(self.settings.endpoints) or self.search.interfaces.is_neighbour(address, index)

    # ── the board ────────────────────────────────────────────────────────────────────────────────

    async def _watch_models(self) -> None:
        async with contextlib.aclosing(self._serving.offers()) as offers:
            async for models in offers:
                self._models = tuple(model for model in models if self._is_advertised(model))
                self._do(self.membership.models_changed(self._models, self._now()))

    def _is_advertised(self, model: Servable) -> bool:
        return "*" in self.settings.models or model.id in self.settings.models

    def _deliver(self, answers: Answers) -> None:
        self._do(self.membership.engine_answered(answers, self._now()))

    async def _load(self, model: str) -> None:
        with contextlib.suppress(ExoRkllmError):  # it shows in the offers
            await self._serving.load(model)

    # ── effects ──────────────────────────────────────────────────────────────────────────────────

    def _do(self, effects: list[ClusterEffect]) -> None:
        for effect in effects:
            match effect:
                case SendEffect(topic, payload):
                    self._link.send(topic, payload)
                case BeginTaskEffect(task, model):
                    self._runs.begin(task, model, self.membership.local.images)
                case CancelTaskEffect(task_id, _):
                    self._runs.cancel(task_id)
                case LoadModelEffect(model):
                    self._spawn(self._load(model))
                case QueryNodesEffect():
                    self._spawn(self._query_nodes(effect))
                case DeclareTokenEffect():
                    self._link.declare(self.node_id)
                case StayOutEffect(sentence):
                    with contextlib.suppress(OSError):
                        self._identity.keep_out(sentence)
                case LogEffect(level, sentence):
                    self._log.log(LEVELS[level], "%s", sentence)
        self._set_timer()
        if self._leaving and self.membership.gone:
            self._goodbye_heard.set()

    def _set_timer(self) -> None:
        deadline = self.membership.deadline
        if deadline is None:
            return
        if self._timer is not None:
            if self._timer.when() <= deadline:
                return  # it fires too early at most, and looks again
            self._timer.cancel()
        self._timer = self._loop.call_at(deadline, self._tick)

    def _tick(self) -> None:
        self._timer = None
        deadline, now = self.membership.deadline, self._now()
        if deadline is None or deadline > now:
            self._set_timer()  # what it was set for has been put off since
        else:
            self._do(self.membership.tick(now))

    def _now(self) -> float:
        return self._loop.time()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
