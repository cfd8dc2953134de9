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

from exo_rkllm.backends import base
from exo_rkllm.cluster.discovery.interfaces import Interfaces, hosts_in
from exo_rkllm.cluster.discovery.libp2p import LIBP2P, LibP2pWatch, sentence_of
from exo_rkllm.cluster.discovery.service import Discovery, new_nonce
from exo_rkllm.cluster.discovery.state import DISCOVERY_WINDOW, AmbiguousClusters, DiscoveredPeer, DiscoveryState
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
from exo_rkllm.cluster.serving import BoardGauges, ModelServing, NodeDescription, Servable, disk_usage
from exo_rkllm.cluster.session.link import Alive, Linked, LinkFailed, TopicMessage, ZenohLink
from exo_rkllm.cluster.session.membership import Membership
from exo_rkllm.cluster.session.node_query import query_nodes
from exo_rkllm.cluster.session.publishing import MembershipSources
from exo_rkllm.cluster.session.view import Announcement, ClusterView, Phase, unconfirmed, why_alone
from exo_rkllm.cluster.wire import requests
from exo_rkllm.cluster.wire.events import Task
from exo_rkllm.cluster.wire.revisions import Revision, supported
from exo_rkllm.config.table import AUTO, ClusterSettings
from exo_rkllm.errors import ExoRkllmError, RunError

# Between two attempts to connect.
RETRY = 0.5
# zenoh goes on to the next node it knows within 0.2 s; after this it knows none that answers.
MOVE_ON = 1.5
# A link that is down for so long is opened anew whatever zenoh thinks of it.
START_OVER = 12.0
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
        transport: Callable[[], ZenohLink] = ZenohLink,
        revision: Revision | None = None,
    ) -> None:
        self.settings = settings
        self._log = logging.getLogger("exo_rkllm.cluster")
        self._serving = serving
        self._identity = NodeIdentity(folder)
        self._known_clusters = KnownClusters(folder)
        self._make_transport = transport
        self.node_id = self._identity.node_id()
        self._revision = revision or supported()[0]
        self.membership = Membership(
            self.node_id,
            self._revision,
            facts,
            placement=settings.placement,
            errors=settings.errors,
            sources=MembershipSources(disk=lambda: disk_usage(models_folder or Path("/")), gauges=gauges),
            stay_out=self._identity.stay_out(),
        )
        self.membership.may_publish = self._is_named = settings.namespace != AUTO or bool(settings.endpoints)
        self._discovery_state = DiscoveryState(
            self.node_id, settings.namespace, new_nonce, self._revision.versions, settings.discovery_port
        )
        self._interfaces = Interfaces(settings.interfaces)
        self._ambiguous: tuple[str, ...] = ()
        self._announcement: Announcement | None = None
        self._endpoints: tuple[str, ...] = ()
        self._link_is_up = False
        self._has_endpoints = asyncio.Event()  # there is something to connect to
        self._reopen = asyncio.Event()  # the link is to be opened anew
        self._leaving = False
        self._goodbye_heard = asyncio.Event()  # our goodbyes were heard
        self._tasks: set[asyncio.Task[None]] = set()
        self._runs: dict[str, asyncio.Task[None]] = {}
        self._answers: list[tuple[str, base.GenerationEvent | ExoRkllmError]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._relink: asyncio.TimerHandle | None = None

    # ── life ─────────────────────────────────────────────────────────────────────────────────────

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport = self._make_transport()
        self._discovery = Discovery(
            self._discovery_state,
            self._interfaces,
            self.settings.discovery_port,
            configured=hosts_in(self.settings.endpoints),
            on_peer=self._on_peer,
            on_ambiguity=self._on_ambiguity,
            on_interfaces=self._on_interfaces,
        )
        self._libp2p = LibP2pWatch(self._interfaces.is_neighbour, self._on_libp2p)
        if self._discovery.problem is not None:
            self._log.warning("%s", self._discovery.problem)
        self._discovery.start()
        self._discovery.search(on=True)
        if self.settings.endpoints:
            self._has_endpoints.set()
        if not self.membership.may_publish:
            self._loop.call_later(DISCOVERY_WINDOW, self._settle_cluster)
        for work in (self._keep_linked(), self._receive(), self._watch_models()):
            self._spawn(work)
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
        self._discovery.close()
        self._libp2p.close()
        running = [*self._tasks, *self._runs.values()]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await self._transport.close()

    def join(self) -> None:
        """The operator wants the board in this cluster, with all its models."""
        if not self._is_named and self._discovery_state.is_settled(self._now()):
            self._known_clusters.add(self._discovery_state.namespace, confirmed=True)
            self._announcement = None
        self._do(self.membership.invite(self._now()))

    def view(self) -> ClusterView:
        now = self._now()
        view = self.membership.view(now)
        others = tuple(f"{one.namespace} at {one.source}" for one in self._discovery_state.other_clusters(now))
        old = self._libp2p.hosts()
        sentence, hint = view.sentence, view.hint
        if view.phase is Phase.SEARCHING:
            has_endpoints = bool(self._discovery_state.endpoints() or self.settings.endpoints)
            problem = None if self.settings.endpoints else self._discovery.problem
            sentence, hint = why_alone(
                self._ambiguous, problem, self._discovery_state.namespace, others, old, has_endpoints=has_endpoints
            )
        return replace(
            view,
            namespace=self._discovery_state.namespace,
            other_clusters=(*others, *(f"{LIBP2P} at {host}" for host in old)),
            endpoints=self._endpoints,
            announcement=None if view.phase is Phase.OUT else self._announcement,
            sentence=sentence,
            hint=hint,
        )

    # ── the network ──────────────────────────────────────────────────────────────────────────────

    async def _keep_linked(self) -> None:
        failures = 0
        while True:
            await self._has_endpoints.wait()
            if not self._has_endpoints.is_set():
                continue  # cleared again before this task ran
            endpoints = (*self.settings.endpoints, *self._discovery_state.endpoints())
            self._reopen.clear()
            # zenoh spends its time on the first one, dead or not: each attempt begins with another one
            turn = failures % len(endpoints)
            try:
                await self._transport.open(endpoints[turn:] + endpoints[:turn])
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
                await self._transport.close()

    async def _receive(self) -> None:
        while True:
            for incoming in await self._transport.receive():
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
        if self._relink is not None:
            self._relink.cancel()
            self._relink = None
        if up:
            self._do(self.membership.link_up(self._now()))
            self._stop_searching()
        else:
            self._do(self.membership.link_down(self._now()))
            self._discovery.search(on=True)
            self._relink = self._loop.call_later(MOVE_ON, self._still_down, self._now())

    def _still_down(self, since: float) -> None:
        """Open the link anew if new endpoints were discovered: zenoh goes on trying those that it was opened with."""
        fresh = set(self._discovery_state.endpoints()) - set(self._endpoints)
        if fresh or self._now() - since >= START_OVER:
            self._reopen.set()
            since = self._now()
        self._relink = self._loop.call_later(MOVE_ON, self._still_down, since)

    def _stop_searching(self) -> None:
        """Send no Hello while the link is up; nodes that start later send theirs."""
        if self._link_is_up and self.membership.may_publish:
            self._discovery.search(on=False)

    def _on_peer(self, peer: DiscoveredPeer) -> None:
        self._log.debug("Found exo node %s at %s", peer.node_id, peer.endpoint)
        self._has_endpoints.set()

    def _on_libp2p(self, host: str) -> None:
        self._log.warning("%s %s", *sentence_of((host,)))

    def _on_ambiguity(self, clusters: AmbiguousClusters) -> None:
        """Join none of several clusters: the configuration has to name one."""
        self._ambiguous = clusters.namespaces
        self._log.warning(
            "Several exo clusters are heard (%s) and none is joined. Set namespace in [cluster] to one of them.",
            ", ".join(clusters.namespaces),
        )
        self._has_endpoints.clear()
        self._reopen.set()
        self._on_link(up=False)

    def _settle_cluster(self) -> None:
        now = self._now()
        if self._discovery_state.is_settled(now):
            self._ambiguous = ()
            self._announce(self._discovery_state.namespace)
            self._do(self.membership.permit(now))
            self._stop_searching()
        else:
            self._loop.call_later(self._discovery_state.patience(now), self._settle_cluster)

    def _announce(self, namespace: str) -> None:
        if self.membership.phase is Phase.OUT:
            return
        new, confirmed = self._known_clusters.add(namespace)
        self._announcement = None if confirmed else unconfirmed(namespace)
        if new and self._announcement is not None:
            self._log.warning("%s %s.", self._announcement.sentence, self._announcement.hint)
        else:
            self._log.info("Joining the exo cluster %s, the only one heard.", namespace)

    def _on_interfaces(self) -> None:
        self._libp2p.use({entry.index for entry in self._interfaces.usable()})
        self._do(self.membership.interfaces_changed(self._interfaces.addresses(), self._now()))

    async def _query_nodes(self, query: QueryNodesEffect) -> None:
        addresses = {**self.membership.addresses(), **await self._transport.addresses()}
        reachable = {node: tuple(filter(self._may_query, told)) for node, told in addresses.items()}
        answer = await query_nodes(query, reachable, self.settings.api_port)
        self._do(self.membership.node_answered(answer, self._now()))

    def _may_query(self, address: str) -> bool:
        """Nodes tell addresses of themselves. Beyond our networks they are used only if [cluster] names nodes there."""
        _, _, scope = address.partition("%")
        index = int(scope) if scope.isdecimal() else socket.if_nametoindex(scope) if scope else 0
        return bool(self.settings.endpoints) or self._interfaces.is_neighbour(address, index)

    # ── the board ────────────────────────────────────────────────────────────────────────────────

    async def _watch_models(self) -> None:
        async with contextlib.aclosing(self._serving.offers()) as offers:
            async for models in offers:
                self._do(
                    self.membership.models_changed(
                        [model for model in models if self._is_advertised(model)], self._now()
                    )
                )

    def _is_advertised(self, model: Servable) -> bool:
        return "*" in self.settings.models or model.id in self.settings.models

    async def _run_task(self, task: Task, model: str) -> None:
        try:
            question = requests.request(task.id, model, task.params, self.membership.local.images)
            async with contextlib.aclosing(self._serving.generate(question, client="exo")) as answer:
                async for event in answer:
                    self._on_answer(task.id, event)
        except ExoRkllmError as problem:
            self._on_answer(task.id, problem)
        except Exception as surprise:  # noqa: BLE001  whoever asked must get an end, whatever broke
            self._log.exception("An answer for the exo cluster broke off.")
            self._on_answer(task.id, RunError(f"The board failed: {type(surprise).__name__}."))
        else:
            self._on_answer(task.id, RunError("The board's engine ended without a word."))
        finally:
            self._runs.pop(task.id, None)

    def _on_answer(self, task_id: str, event: base.GenerationEvent | ExoRkllmError) -> None:
        """Collect the events of one turn of the loop, so that they go out together."""
        if not self._answers:
            self._loop.call_soon(self._deliver_answers)
        self._answers.append((task_id, event))

    def _deliver_answers(self) -> None:
        answers, self._answers = self._answers, []
        self._do(self.membership.engine_answered(answers, self._now()))

    async def _load(self, model: str) -> None:
        with contextlib.suppress(ExoRkllmError):  # it shows in the offers
            await self._serving.load(model)

    # ── effects ──────────────────────────────────────────────────────────────────────────────────

    def _do(self, effects: list[ClusterEffect]) -> None:
        for effect in effects:
            match effect:
                case SendEffect(topic, payload):
                    self._transport.send(topic, payload)
                case BeginTaskEffect(task, model):
                    self._runs[task.id] = self._loop.create_task(self._run_task(task, model))
                case CancelTaskEffect(task_id, _):
                    run = self._runs.pop(task_id, None)
                    if run is not None:
                        run.cancel()
                case LoadModelEffect(model):
                    self._spawn(self._load(model))
                case QueryNodesEffect():
                    self._spawn(self._query_nodes(effect))
                case DeclareTokenEffect():
                    self._transport.declare(self.node_id)
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

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
