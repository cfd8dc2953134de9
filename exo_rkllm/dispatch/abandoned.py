"""Runs whose readers have left: the NPU is another's only when they have really ended (rkllm-runtime 2.8)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from exo_rkllm.backends.base import Engine
from exo_rkllm.dispatch import events as on
from exo_rkllm.dispatch.events import DispatchEvent
from exo_rkllm.dispatch.request import ActiveRequest
from exo_rkllm.errors import RunnerLost


class AbandonedRuns:
    """`post` tells the run loop what has become of them, `current` which engine a model has now."""

    def __init__(self, post: Callable[[DispatchEvent], None], current: Callable[[str], Engine | None]) -> None:
        self._post = post
        self._current = current
        self._tasks: set[asyncio.Task[None]] = set()

    def add(self, active: ActiveRequest, engine: Engine) -> None:
        task = asyncio.get_running_loop().create_task(self._gone_once_settled(active, engine))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def cancel(self) -> None:
        tasks = set(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _gone_once_settled(self, active: ActiveRequest, engine: Engine) -> None:
        name = active.model.id
        settling = asyncio.ensure_future(engine.settled(active.request.id))
        try:
            await asyncio.wait({settling}, timeout=engine.settle_seconds)
            if not settling.done() and engine is self._current(name):
                sentence = f"{name} did not end an abandoned answer within {engine.settle_seconds:.0f} s."
                self._post(on.EngineLostEvent(name, RunnerLost(sentence, "exo-rkllm logs")))
        finally:
            settling.cancel()
            self._post(on.RequestGoneEvent(active.ticket, name, active.run_seconds))
        if settling.done():
            await settling
