"""Current exo's `Builder` and `Engine` over ours, for whoever runs exo itself on the board and has it take this engine.

exo chooses its engines by hand (classic-plugin 4.3), so its owner names `NpuBuilder` there. Its calls are synchronous
and ours are not: a loop runs in a thread of its own, and `step` gives out what has come from there.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import queue
import threading
from collections.abc import Coroutine, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from exo_rkllm.backends.base import Finish, GenerationRequest, Piece, Progress
from exo_rkllm.catalogue.store import Catalogue
from exo_rkllm.classic import source
from exo_rkllm.cluster import chunks, requests
from exo_rkllm.config import load
from exo_rkllm.errors import ExoRkllmError, NotSupported
from exo_rkllm.models import classic_id

T = TypeVar("T")
# How long `step` waits for something to give out before exo may look after its tasks again.
PATIENCE = 0.1
ALL_TASKS = "CANCEL_ALL_TASKS"


def exo_types() -> Any:
    """What exo's runner takes; also how one sees that there is an exo."""
    try:
        return importlib.import_module("exo.shared.types.worker.runner_response")
    except ImportError:
        raise NotSupported(
            "No current exo is installed in this Python.", "Without it: exo-rkllm serve joins exo's cluster by itself."
        ) from None


class NpuBuilder:
    """One model on one node: a .rkllm file is never cut."""

    def __init__(self, types: Any = None) -> None:
        self._types = exo_types() if types is None else types
        self._work: _Work | None = None
        self._model = ""

    def connect(self, bound_instance: Any) -> None:
        """Nothing to connect: an instance over several nodes is refused."""
        nodes = bound_instance.instance.shard_assignments.node_to_runner
        if len(nodes) != 1:
            raise NotSupported(
                f"exo wants this model on {len(nodes)} nodes, and a .rkllm model cannot be cut.",
                "Place it on the board alone.",
            )

    def load(self, bound_instance: Any) -> Iterator[Any]:
        """Says which model it is; the file is loaded by `build`, whose library counts no layers."""
        self._model = str(bound_instance.bound_shard.model_card.model_id)
        yield from ()

    def build(self) -> NpuEngine:
        work = _Work(self._model)
        try:
            work.wait(work.load())
        except BaseException:
            work.close()
            raise
        self._work = work
        return NpuEngine(work, self._types)

    def close(self) -> None:
        if self._work is not None:
            self._work.close()
            self._work = None


class NpuEngine:
    """Tasks come by `submit` and are answered by `step`; the queue behind them is the dispatcher's."""

    def __init__(self, work: _Work, types: Any) -> None:
        self._work = work
        self._types = types
        self._images = requests.ImageStore()
        self._cancelled_tasks: set[Any] = set()

    def should_cancel(self, task_id: Any) -> bool:
        return task_id in self._cancelled_tasks or ALL_TASKS in self._cancelled_tasks

    def warmup(self) -> None:
        self._work.wait(self._work.answer_all(GenerationRequest(self._work.model, prompt="Hi", max_tokens=1)))

    def submit(self, task: Any) -> None:
        params = task.task_params
        plain = params if isinstance(params, dict) else params.model_dump()
        self._work.begin(task.task_id, requests.request(str(task.task_id), self._work.model, plain, self._images))

    def step(self) -> Iterable[tuple[Any, Any]]:
        """What has come since the last time, of every task; a task that exo cancelled is ended."""
        for task_id in self._work.running():
            if self.should_cancel(task_id):
                self._work.end(task_id)
        for task_id, event in self._work.arrived():
            yield from ((task_id, response) for response in self._responses(event))

    def close(self) -> None:
        self._work.close()

    def _responses(self, event: object) -> Iterator[Any]:
        types = self._types
        if isinstance(event, ExoRkllmError):
            raise event  # exo's runner turns it into the task's failure
        if isinstance(event, Progress) and event.stage == "prefill":
            yield types.PrefillProgressResponse(processed_tokens=event.done, total_tokens=event.total)
        elif isinstance(event, Piece) and event.kind == "tool_call":
            calls = [asdict(call) for call in chunks.tool_calls(event.text)]
            yield types.ToolCallResponse(tool_calls=calls, usage=None)
        elif isinstance(event, Piece):
            yield types.GenerationResponse(text=event.text, token=event.token, usage=None)
        elif isinstance(event, Finish):
            if event.reason != "abort":
                reason = {"length": "length", "tool_calls": "tool_calls"}.get(event.reason, "stop")
                used = asdict(chunks.usage(event, 0))
                yield types.GenerationResponse(text="", token=-1, finish_reason=reason, usage=used)
            yield types.FinishedResponse()


class _Work:
    """The thread with the loop, and the answers that run on it."""

    def __init__(self, asked_for: str) -> None:
        config = load(os.environ)
        self._catalogue = Catalogue(Path(config.models.directory))
        self._asked_for = asked_for
        self._root = Path(config.board.root)
        self._library = Path(config.runtime.library) if config.runtime.library else None
        self._arrived: queue.SimpleQueue[tuple[Any, object]] = queue.SimpleQueue()
        self._tasks: dict[Any, asyncio.Task[None]] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="exo-rkllm", daemon=True)
        self._thread.start()
        self._source: source.Own | None = None
        self.model = ""

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def load(self) -> None:
        """exo's name of the model is the entry's own, or the one that its card was published under."""
        names = {name: entry.id for entry in self._catalogue.list() for name in (entry.id, classic_id(entry))}
        short = self._asked_for.rpartition("/")[2]
        self.model = self._catalogue.resolve(names.get(self._asked_for) or names.get(short) or short).id
        self._source = source.own(self._catalogue.resolve, self._root, self._library)
        await self._source.load(self.model)

    async def answer_all(self, request: GenerationRequest) -> list[object]:
        assert self._source is not None, "load came first"  # noqa: S101 - the order is exo's contract
        return [event async for event in self._source.answer(request)]

    def begin(self, task_id: Any, request: GenerationRequest) -> None:
        self.wait(self._begin(task_id, request))

    async def _begin(self, task_id: Any, request: GenerationRequest) -> None:
        self._tasks[task_id] = asyncio.get_running_loop().create_task(self._answer(task_id, request))

    async def _answer(self, task_id: Any, request: GenerationRequest) -> None:
        assert self._source is not None, "load came first"  # noqa: S101 - the order is exo's contract
        events = self._source.answer(request)
        try:
            async for event in events:
                self._arrived.put((task_id, event))
        except ExoRkllmError as error:
            self._arrived.put((task_id, error))
        except asyncio.CancelledError:
            self._arrived.put((task_id, Finish("abort")))
        finally:
            self._tasks.pop(task_id, None)
            await events.aclose()

    def running(self) -> tuple[Any, ...]:
        return tuple(self._tasks)

    def end(self, task_id: Any) -> None:
        task = self._tasks.get(task_id)
        if task is not None:
            self._loop.call_soon_threadsafe(task.cancel)

    def arrived(self) -> Iterator[tuple[Any, object]]:
        try:
            yield self._arrived.get(timeout=PATIENCE if self._tasks else 0)
            while True:
                yield self._arrived.get_nowait()
        except queue.Empty:
            return

    def close(self) -> None:
        if not self._thread.is_alive():
            return
        self.wait(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _close(self) -> None:
        for task in tuple(self._tasks.values()):
            task.cancel()
        if self._tasks:
            await asyncio.wait(tuple(self._tasks.values()))
        if self._source is not None:
            await self._source.close()
