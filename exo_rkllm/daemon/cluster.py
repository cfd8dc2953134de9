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
from exo_rkllm.cluster.identity import FOLDER
from exo_rkllm.cluster.serving import BoardGauges, NodeDescription, Servable
from exo_rkllm.cluster.session.link import available
from exo_rkllm.config import Config, places
from exo_rkllm.daemon import offers
from exo_rkllm.daemon.cluster_switch import UNNAMED, may_join
from exo_rkllm.daemon.hardware import total_memory
from exo_rkllm.daemon.offers import MachineRoom, Retries
from exo_rkllm.dispatch.dispatcher import Dispatcher
from exo_rkllm.dispatch.status import DispatchOverview, DispatchStatus, ModelStatus
from exo_rkllm.errors import ExoRkllmError, NotSupported

if TYPE_CHECKING:
    from exo_rkllm.board.detect import Board
    from exo_rkllm.board.sources import Sources
    from exo_rkllm.cluster.node import ClusterNode

log = logging.getLogger(__name__)


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
