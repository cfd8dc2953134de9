"""The cluster's tasks in the board's queue: begun, cancelled, and their answers brought back."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from exo_rkllm.backends import base
from exo_rkllm.cluster.serving import ModelServing
from exo_rkllm.cluster.wire import requests
from exo_rkllm.cluster.wire.events import Task
from exo_rkllm.errors import ExoRkllmError, RunError

Answers = list[tuple[str, base.GenerationEvent | ExoRkllmError]]


class TaskRuns:
    """`deliver` is given what engines said, by task; what comes in one turn of the loop comes together."""

    def __init__(self, serving: ModelServing, deliver: Callable[[Answers], None]) -> None:
        self._serving = serving
        self._deliver_to = deliver
        self._log = logging.getLogger("exo_rkllm.cluster")
        self._loop = asyncio.get_running_loop()
        self._runs: dict[str, asyncio.Task[None]] = {}
        self._answers: Answers = []

    def begin(self, task: Task, model: str, images: requests.ImageStore) -> None:
        self._runs[task.id] = self._loop.create_task(self._run(task, model, images))

    def cancel(self, task_id: str) -> None:
        run = self._runs.pop(task_id, None)
        if run is not None:
            run.cancel()

    async def end(self) -> None:
        running = list(self._runs.values())
        for run in running:
            run.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _run(self, task: Task, model: str, images: requests.ImageStore) -> None:
        try:
            question = requests.request(task.id, model, task.params, images)
            async with contextlib.aclosing(self._serving.generate(question, client="exo")) as answer:
                async for event in answer:
                    self._take(task.id, event)
        except ExoRkllmError as problem:
            self._take(task.id, problem)
        except Exception as surprise:  # noqa: BLE001  whoever asked must get an end, whatever broke
            self._log.exception("An answer for the exo cluster broke off.")
            self._take(task.id, RunError(f"The board failed: {type(surprise).__name__}."))
        else:
            self._take(task.id, RunError("The board's engine ended without a word."))
        finally:
            self._runs.pop(task.id, None)

    def _take(self, task_id: str, event: base.GenerationEvent | ExoRkllmError) -> None:
        if not self._answers:
            self._loop.call_soon(self._deliver)
        self._answers.append((task_id, event))

    def _deliver(self) -> None:
        answers, self._answers = self._answers, []
        self._deliver_to(answers)
