"""The board's place in an exo cluster, given what the rest of the daemon knows: models to offer, answers to give."""

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING

from exo_rkllm.backends.base import GenerationEvent, GenerationRequest
from exo_rkllm.catalogue.store import Catalogue, Entry
from exo_rkllm.cluster.serving import BoardFacts, ModelState, Servable
from exo_rkllm.cluster.session.link import zenoh_available
from exo_rkllm.config import Config, places
from exo_rkllm.dispatch.dispatcher import Dispatcher
from exo_rkllm.dispatch.state import Phase
from exo_rkllm.dispatch.status import DispatchStatus, ModelStatus

if TYPE_CHECKING:
    from exo_rkllm.board.detect import Board
    from exo_rkllm.cluster.node import ClusterNode

log = logging.getLogger(__name__)

STATES: Mapping[Phase, ModelState] = {"cold": "cold", "loading": "loading", "ready": "ready", "closing": "cold"}


class DispatchServing:
    """`Serving`: the cluster's tasks join the queue that everybody else's requests stand in."""

    def __init__(self, dispatcher: Dispatcher, catalogue: Catalogue) -> None:
        self._dispatcher = dispatcher
        self._catalogue = catalogue

    async def offers(self) -> AsyncGenerator[tuple[Servable, ...], None]:
        told: tuple[Servable, ...] | None = None
        async with aclosing(self._dispatcher.subscribe()) as changes:
            async for status in changes:
                offered = self._offered(status)
                if offered != told:
                    told = offered
                    yield offered

    def generate(self, request: GenerationRequest, *, client: str) -> AsyncGenerator[GenerationEvent, None]:
        return self._dispatcher.generate(request, client=client)

    async def load(self, model: str) -> None:
        await self._dispatcher.load(model)

    def _offered(self, status: DispatchStatus) -> tuple[Servable, ...]:
        """Nothing, while nothing can be answered: the cluster must not send work to a board that cannot do it."""
        if status.unavailable_reason or status.draining:
            return ()
        known = {model.name: model for model in status.models}
        return tuple(servable(entry, known.get(entry.id)) for entry in self._catalogue.list())


def servable(entry: Entry, status: ModelStatus | None) -> Servable:
    card = entry.card
    state: ModelState = "cold" if status is None else "failed" if status.error else STATES[status.state]
    return Servable(
        id=entry.id,
        state=state,
        size=card.weights.size if card.weights else 0,
        layers=card.layers,
        hidden_size=card.hidden_size,
        context=entry.context if status is None else status.context,
        memory=card.memory if status is None else status.memory,
        family=card.chat.family,
        quantization=card.quantization,
        base_model=card.base_model,
        sampling=entry.sampling,
        folder=str(entry.folder),
        problem="" if status is None else status.error,
    )


def node(
    config: Config,
    environment: Mapping[str, str],
    dispatcher: Dispatcher,
    catalogue: Catalogue,
    board: Callable[[], Board],
) -> ClusterNode | None:
    """None where the cluster is switched off, or where its transport is not installed."""
    if not config.cluster.enabled:
        return None
    if not zenoh_available():
        log.info("No exo cluster is joined: eclipse-zenoh is not installed. pip install 'exo-rkllm[cluster]'")
        return None
    from exo_rkllm.cluster.node import ClusterNode

    seen = board()
    facts = BoardFacts(
        name=config.cluster.name or socket.gethostname(),
        model=seen.title,
        chip=seen.soc.title if seen.soc else "Rockchip NPU",
        os_version=seen.kernel,
    )
    folder = places(environment).state / "cluster"
    return ClusterNode(
        config.cluster,
        facts,
        DispatchServing(dispatcher, catalogue),
        folder,
        models_folder=catalogue.directory,
    )
