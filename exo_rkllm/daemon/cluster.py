"""The board's place in an exo cluster, given what the rest of the daemon knows: models to offer, answers to give."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from exo_rkllm.assembly import Node
from exo_rkllm.backends.base import GenerationEvent, GenerationRequest
from exo_rkllm.backends.host import windows
from exo_rkllm.board.counters import read_gauges
from exo_rkllm.catalogue.entry import Entry
from exo_rkllm.cluster import lenient
from exo_rkllm.cluster.discovery.transports import LIBRARIES
from exo_rkllm.cluster.identity import FOLDER, JOIN, LEFT, NodeIdentity
from exo_rkllm.cluster.serving import BoardGauges, NodeDescription, Servable
from exo_rkllm.cluster.session.link import available
from exo_rkllm.cluster.session.view import ClusterView, Phase
from exo_rkllm.config import ClusterSettings, Config, places
from exo_rkllm.config.table import AUTO
from exo_rkllm.daemon import offers
from exo_rkllm.daemon.hardware import total_memory
from exo_rkllm.daemon.offers import MachineRoom, Retries
from exo_rkllm.dispatch.dispatcher import Dispatcher
from exo_rkllm.dispatch.status import DispatchOverview, DispatchStatus, ModelStatus
from exo_rkllm.errors import ConfigError, ExoRkllmError, NotSupported

if TYPE_CHECKING:
    from exo_rkllm.board.detect import Board
    from exo_rkllm.board.sources import Sources
    from exo_rkllm.cluster.node import ClusterNode

log = logging.getLogger(__name__)

UNNAMED = (
    "No exo cluster is joined: this board has API keys, and exo asks for none. Write namespace or endpoints under "
    "[cluster] to name the cluster that may use its models."
)


class DispatchServing:
    """`ModelServing`: the cluster's tasks join the queue that everybody else's requests stand in."""

    def __init__(self, dispatcher: Dispatcher, node: Node, room: Callable[[], MachineRoom] = MachineRoom) -> None:
        self._dispatcher = dispatcher
        self._node = node
        self._room = room
        self._retries = Retries()
        self._wake = asyncio.Event()
        self._stale = False  # something other than the dispatcher's overview has changed

    async def offers(self) -> AsyncGenerator[tuple[Servable, ...], None]:
        """Follows the dispatcher and the models folder, whichever process changes that."""
        previous: tuple[Servable, ...] | None = None
        latest: DispatchOverview | None = None
        loop = asyncio.get_running_loop()
        timer: asyncio.TimerHandle | None = None
        try:
            with self._node.catalogue.listening(self._look_again):
                async with aclosing(self._dispatcher.subscribe(self._wake)) as overviews:
                    async for overview in overviews:
                        former, latest = latest, replace(overview, running=0)  # an answer changes no offer
                        if latest == former and not self._stale:
                            continue
                        self._stale = False
                        models = self._offers(self._dispatcher.status(), loop.time())
                        if timer is not None:
                            timer.cancel()
                        due = self._retries.deadline(loop.time())
                        timer = None if due is None else loop.call_at(due, self._look_again)
                        if models != previous:
                            previous = models
                            yield models
        finally:
            if timer is not None:
                timer.cancel()

    async def generate(self, request: GenerationRequest, *, client: str) -> AsyncGenerator[GenerationEvent, None]:
        def ask(request: GenerationRequest) -> AsyncGenerator[GenerationEvent, None]:
            return self._dispatcher.generate(request, client=client)

        try:
            async with aclosing(lenient.answer(self._node, ask, request)) as events:
                async for event in events:
                    yield event
        except ExoRkllmError:
            self._note_refusal(request.model)
            raise

    def _note_refusal(self, name: str) -> None:
        """A task failed: where its model could not be loaded, it is withheld again, for longer than before."""
        if any(one.name == name and one.state == "failed" for one in self._dispatcher.overview().models):
            self._retries.refused(name, asyncio.get_running_loop().time())
            self._look_again()

    def _look_again(self) -> None:
        self._stale = True
        self._wake.set()

    async def load(self, model: str) -> None:
        await self._dispatcher.load(model)

    def _offers(self, status: DispatchStatus, now: float) -> tuple[Servable, ...]:
        """All models of the catalogue, those that cannot answer with the reason; nothing while the daemon ends."""
        if status.draining:
            return ()
        statuses = {model.name: model for model in status.models}
        room = self._room()
        return tuple(
            self._offer(entry, statuses.get(entry.id), status, room, now) for entry in self._node.catalogue.list()
        )

    def _offer(
        self, entry: Entry, model: ModelStatus | None, status: DispatchStatus, room: MachineRoom, now: float
    ) -> Servable:
        engines = self._node.engines
        servable = offers.servable(entry, model, engines.get(engines.name_for(entry)))
        needs = self._node.needs(entry)
        try:
            engines.of(entry)
        except NotSupported as missing:
            return offers.withheld(servable, str(missing))
        problem = offers.unavailable(needs, status) or offers.objection(entry, needs, room)
        if problem:
            return offers.withheld(servable, problem)
        if servable.state != "failed":
            self._retries.tried(entry.id, loaded=servable.state == "ready")
        elif model is not None and model.retry_at is None and self._retries.is_due(entry.id, now):
            return replace(servable, state="cold", problem="")
        return servable


def machine_room(board: Board, memory: int) -> MachineRoom:
    return MachineRoom(board.soc.name if board.soc else "", memory, windows(board))


def may_join(cluster: ClusterSettings, *, keys: bool) -> bool:
    """exo asks nobody for a key: who has API keys has to name the cluster that may ask without one."""
    return not keys or cluster.namespace != AUTO or bool(cluster.endpoints)


def cluster_node(
    config: Config,
    environment: Mapping[str, str],
    dispatcher: Dispatcher,
    node: Node,
    board: Callable[[], Board],
    *,
    sources: Callable[[], Sources] | None = None,
    keys: bool = False,
) -> ClusterNode | None:
    """None where the cluster is switched off or not named beside API keys, or where its transport is not installed."""
    if not config.cluster.enabled:
        return None
    if not may_join(config.cluster, keys=keys):
        log.warning("%s", UNNAMED)
        return None
    if not any(map(available, LIBRARIES.values())):
        log.info("No exo cluster is joined: eclipse-zenoh is not installed. pip install 'exo-rkllm[cluster]'")
        return None
    from exo_rkllm.cluster.node import ClusterNode

    now = board()
    memory = max(0, total_memory(Path(config.board.root)) - config.models.reserve_memory)
    return ClusterNode(
        config.cluster,
        NodeDescription(
            name=config.cluster.name or socket.gethostname(),
            model=now.title,
            chip=now.soc.title if now.soc else "Rockchip NPU",
            os_version=now.kernel,
        ),
        DispatchServing(dispatcher, node, lambda: machine_room(board(), memory)),
        places(environment).state / FOLDER,
        models_folder=node.catalogue.directory,
        gauges=lambda: None if sources is None else gauges(sources()),
    )


def gauges(sources: Sources) -> BoardGauges:
    """What the cluster is shown of the board at work."""
    reading = read_gauges(sources)
    load = reading.load or ()
    return BoardGauges(
        memory_total=reading.memory_total or 0,
        npu_load=sum(load) / len(load) if load else 0.0,
        celsius=reading.celsius,
        watts=reading.watts,
    )


class ClusterSwitch:
    """Starts and ends the board's node, at the operator's word, too; `build` gives None where there is to be none.

    `node` is None while the board takes part in no cluster.
    """

    def __init__(self, build: Callable[[], ClusterNode | None], folder: Path) -> None:
        self.node: ClusterNode | None = None
        self._build = build
        self._identity = NodeIdentity(folder)
        self._left = self._identity.stay_out() == LEFT
        self._turn = asyncio.Lock()

    async def start(self) -> None:
        """A board that cannot join still serves."""
        async with self._turn:
            await self._start()

    async def stop(self) -> None:
        """With a goodbye, so that no node of the cluster waits for this board."""
        async with self._turn:
            await self._stop()

    async def join(self) -> None:
        """The operator wants the board in, with all its models, whatever kept it out."""
        async with self._turn:
            if self.node is not None:
                self.node.join()
                return
            if self._left:
                self._remember("")  # first: the node stays out while its folder has a reason to
            await self._start()

    async def leave(self) -> None:
        """The operator wants the board out, until `join`, restarts included."""
        async with self._turn:
            self._left = True
            await self._stop()
            self._remember(LEFT)

    def view(self) -> ClusterView | None:
        if self.node is not None:
            return self.node.view()
        return ClusterView(Phase.OFF, sentence=LEFT, hint=JOIN) if self._left else None

    @property
    def node_id(self) -> str:
        return "" if self.node is None else self.node.node_id

    async def _start(self) -> None:
        if self._left:
            log.info("%s %s brings it back.", LEFT, JOIN)
            return
        try:
            node = self._build()
            if node is not None:
                await node.start()
                self.node = node
        except (ExoRkllmError, OSError) as error:
            log.error("No exo cluster is joined: %s", error)  # noqa: TRY400 - the sentence is all there is

    async def _stop(self) -> None:
        node, self.node = self.node, None
        if node is not None:
            await node.stop()

    def _remember(self, reason: str) -> None:
        self._left = bool(reason)
        try:
            self._identity.keep_out(reason)
        except OSError as error:
            raise ConfigError(
                f"This lasts until the daemon ends only: {error.filename} cannot be written ({error.strerror}).",
                f"Write enabled = {str(not reason).lower()} under [cluster].",
            ) from None
