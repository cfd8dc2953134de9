"""One engine from its load to its end, whoever ends it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any

from exo_rkllm.backends.base import Engine, Model
from exo_rkllm.backends.observer import LoadReport, Observer
from exo_rkllm.dispatch.events import DispatchEvent, EngineClosedEvent, EngineLostEvent, EngineReadyEvent
from exo_rkllm.dispatch.request import copy_of
from exo_rkllm.errors import ExoRkllmError, LoadError, RunnerLost

log = logging.getLogger(__name__)

# Beyond every limit of our engines' own; 16 GB from a card that reads 20 MB/s take 800 s.
LOAD = 900.0
# Engines close within seconds by their contract; whoever does not is somebody else's.
CLOSE = 20.0


class EngineLife:
    """Loads an engine, waits for its loss, closes it; posts EngineReadyEvent and EngineLostEvent as they come.

    EngineClosedEvent is posted once, last, and whatever happens: nobody cancels the life's task, which could then end
    before its first step, or in the middle of a close. `close` asks it to end, and may be called at any time.
    """

    def __init__(
        self, model: Model, make: Callable[[Model], Engine], post: Callable[[DispatchEvent], None], observer: Observer
    ) -> None:
        self.engine: Engine | None = None
        self._model = model
        self._make = make
        self._post = post
        self._observer = observer
        self._closing = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._live())
        self._task.add_done_callback(self._over)

    def close(self) -> None:
        self._closing.set()

    async def over(self) -> None:
        """Returns when EngineClosedEvent was posted."""
        await asyncio.wait([self._task])

    async def _live(self) -> None:
        closing = asyncio.ensure_future(self._closing.wait())
        serving = asyncio.ensure_future(self._serve())
        try:
            await asyncio.wait({closing, serving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            closing.cancel()
            serving.cancel()
            await asyncio.wait({serving}, timeout=CLOSE)
            if self.engine is not None:
                await self._bounded(self.engine.close())

    async def _serve(self) -> None:
        """Returns when the engine is lost, or could not be loaded; the dispatcher has been told."""
        name, began = self._model.id, time.monotonic()
        error = await self._failure(self._load())
        seconds = time.monotonic() - began
        self._observer.loaded(LoadReport(name, seconds, "" if error is None else error.code))
        if error is None and self.engine is not None:
            log.info("%s is loaded (%.1f s).", name, seconds, extra={"model": name})
            self._post(EngineReadyEvent(name, self.engine.capabilities.parallel, self.engine.memory or 0))
            error = await self._failure(self.engine.lost())
        if error is not None:
            self._post(EngineLostEvent(name, error))

    async def _load(self) -> None:
        self.engine = self._make(self._model)
        loading = asyncio.ensure_future(self.engine.initialize())
        try:
            await asyncio.wait({loading}, timeout=LOAD)
            late = not loading.done()
        finally:
            loading.cancel()
            await asyncio.wait({loading}, timeout=CLOSE)  # `close` must not meet it
        if late:
            raise LoadError(f"{self._model.id} did not load within {LOAD:.0f} s.", "exo-rkllm logs")
        await loading

    async def _failure(self, work: Coroutine[Any, Any, ExoRkllmError | None]) -> ExoRkllmError | None:
        """What the work returned or raised: an engine of somebody else's must not take the daemon along."""
        try:
            return await work
        except ExoRkllmError as error:
            return copy_of(error)
        except Exception as error:
            log.exception("The engine of %s failed.", self._model.id)
            return LoadError(f"The engine of {self._model.id} failed: {error!r}.", "exo-rkllm logs")

    async def _bounded(self, close: Coroutine[Any, Any, None]) -> None:
        """An engine that does not let go is left behind: the next model must not wait for it for ever."""
        task = asyncio.ensure_future(close)
        await asyncio.wait({task}, timeout=CLOSE)
        if not task.done():
            task.cancel()
            log.error("The engine of %s did not close within %g s.", self._model.id, CLOSE)
        elif not task.cancelled() and (error := task.exception()) is not None:
            log.error("The engine of %s did not close.", self._model.id, exc_info=error)

    def _over(self, task: asyncio.Task[None]) -> None:
        name = self._model.id
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("The engine of %s failed.", name, exc_info=error)
        log.info("%s is unloaded.", name, extra={"model": name})
        # For a task that ended as nobody thought of: whoever still waits hears of it. Otherwise the loss is known.
        self._post(EngineLostEvent(name, RunnerLost(f"The engine of {name} ended.", "exo-rkllm logs")))
        self._post(EngineClosedEvent(name))
