"""Current exo's `Builder` and `Engine` over ours, for whoever runs exo itself on the board and has it take this engine.

exo chooses its engines by hand (classic-plugin 4.3), so its owner names `NpuBuilder` there. Its calls are synchronous
and ours are not: a loop runs in a thread of its own, and `step` gives out what has come from there.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import queue
import socket
import threading
from collections.abc import Coroutine, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol, TypeVar

from exo_rkllm.assembly import LocalSource, open_node
from exo_rkllm.backends.base import Finish, GenerationRequest, Piece, Progress
from exo_rkllm.cluster import lenient
from exo_rkllm.cluster.wire import chunks, requests
from exo_rkllm.cluster.wire.events import Tagged, tag_of
from exo_rkllm.cluster.worker import offers
from exo_rkllm.cluster.worker.failures import last_chunk
from exo_rkllm.config import load
from exo_rkllm.errors import ExoRkllmError, NotSupported, UsageError
from exo_rkllm.models import classic_id

T = TypeVar("T")
# How long `step` waits for something to give out before exo may look after its tasks again.
PATIENCE = 0.1
ALL_TASKS = "CANCEL_ALL_TASKS"
TEXT = "TextGeneration"


class Cancels(Protocol):
    """The receiving end of exo's pipe to a runner."""

    def collect(self) -> list[Any]:
        """The ids of the tasks that were cancelled since, without waiting."""


@dataclass(frozen=True, slots=True)
class Exo:
    """The modules of exo whose classes its runner looks for."""

    base: Any
    chunks: Any
    responses: Any


def find_exo() -> Exo:
    """Also how one sees that there is a current exo."""
    try:
        return Exo(
            base=importlib.import_module("exo.worker.engines.base"),
            chunks=importlib.import_module("exo.shared.types.chunks"),
            responses=importlib.import_module("exo.shared.types.worker.runner_response"),
        )
    except ImportError:
        raise NotSupported(
            "No current exo is installed in this Python.", "Without it: exo-rkllm serve joins exo's cluster by itself."
        ) from None


class NpuBuilder:
    """One model on one node: a .rkllm file is never cut. `cancel_receiver` is what exo's bootstrap gives its own."""

    def __init__(self, cancel_receiver: Cancels, exo: Exo | None = None) -> None:
        self._exo = find_exo() if exo is None else exo
        # Its runner asks isinstance; a subclass could not be imported without exo.
        self._exo.base.Builder.register(NpuBuilder)
        self._exo.base.Engine.register(NpuEngine)
        self._cancels = cancel_receiver
        self._work: _Work | None = None
        self._model = ""

    def connect(self, bound_instance: Any) -> None:
        """Nothing to connect: exo calls this for an instance over several nodes only, which is refused."""
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
        return NpuEngine(work, self._cancels, self._exo)

    def close(self) -> None:
        if self._work is not None:
            self._work.close()
            self._work = None


class ImageRefused(UsageError):
    """A task of exo's image API, whose refusal is a chunk of another kind."""


@dataclass(slots=True)
class TaskTotals:
    """What the last chunk of a task has to sum up."""

    streams: bool = False
    spoke: bool = False
    thinking: int = 0
    calls: str = ""


class NpuEngine:
    """Tasks come by `submit` and are answered by `step`, in exo's chunks; the queue behind is the dispatcher's.

    What goes wrong with a task is a chunk of it, too: whatever is raised here ends exo's runner and every other task.
    """

    def __init__(self, work: _Work, cancels: Cancels, exo: Exo) -> None:
        self._work = work
        self._cancels = cancels
        self._exo = exo
        self._images = requests.ImageStore()
        self._totals: dict[Any, TaskTotals] = {}
        self._cancelled_tasks: set[Any] = set()

    def should_cancel(self, task_id: Any) -> bool:
        return task_id in self._cancelled_tasks or ALL_TASKS in self._cancelled_tasks

    def warmup(self) -> None:
        self._work.wait(self._work.answer_all(GenerationRequest(self._work.model, prompt="Hi", max_tokens=1)))

    def submit(self, task: Any) -> None:
        self._cancelled_tasks.discard(ALL_TASKS)
        params = task.task_params.model_dump()
        self._totals[task.task_id] = TaskTotals(bool(params.get("stream")))
        try:
            if type(task).__name__ != TEXT:
                raise ImageRefused(f"{self._work.exo_model} answers with text, not with images.", "Ask for text.")
            request = requests.request(str(task.task_id), self._work.model, params, self._images)
        except ExoRkllmError as error:
            self._work.refuse(task.task_id, error)
        else:
            self._work.begin(task.task_id, request)

    def step(self) -> Iterable[tuple[Any, Any]]:
        """What has come since the last time, of every task; a task that exo cancelled is ended."""
        self._cancelled_tasks.update(self._cancels.collect())
        for task_id in self._work.running():
            if self.should_cancel(task_id):
                self._work.end(task_id)
        for task_id, event in self._work.take_events():
            yield from ((task_id, response) for response in self._responses(task_id, event))

    def close(self) -> None:
        self._work.close()

    def serve_prefill(self, request: Any, wfile: BinaryIO) -> None:
        raise NotSupported("The NPU's library gives out no KV cache of a prompt.", "Unset ENABLE_DISAGGREGATION.")

    def _responses(self, task_id: Any, event: object) -> Iterator[Any]:
        totals, model = self._totals[task_id], self._work.exo_model
        match event:
            case Progress(stage="prefill", done=done, total=total):
                yield self._chunk(chunks.prefill_progress(model, done, total))
            case Piece(kind="tool_call", text=text):
                totals.calls += text
            case Piece(text=text, token=token, kind=kind):
                totals.thinking += kind == "thinking"
                if text:
                    totals.spoke = True
                    yield self._chunk(chunks.token(model, text, token, thinking=kind == "thinking"))
            case Cancelled():
                yield self._close_task(task_id, self._exo.responses.CancelledResponse())
            case Finish():
                last = chunks.last(model, event, calls=totals.calls, thinking=totals.thinking, memory=0)
                yield self._chunk(last)
                yield self._close_task(task_id, self._exo.responses.FinishedResponse())
            case ImageRefused():  # any other kind of chunk for an image request ends the exo node that asked
                yield self._chunk(chunks.image_error(model, str(event)))
                yield self._close_task(task_id, self._exo.responses.FinishedResponse())
            case ExoRkllmError():
                cluster = self._work.cluster
                name = cluster.name or socket.gethostname()
                told = last_chunk(name, model, str(event), cluster.errors, spoke=totals.spoke, streams=totals.streams)
                yield self._chunk(told)
                yield self._close_task(task_id, self._exo.responses.FinishedResponse())
            case BaseException():
                raise event

    def _close_task(self, task_id: Any, response: Any) -> Any:
        """exo's runner forgets the task with this, and must hear no more of it."""
        del self._totals[task_id]
        self._cancelled_tasks.discard(task_id)
        return response

    def _chunk(self, chunk: Tagged) -> Any:
        """exo's own value of the message that a node of its cluster sends."""
        return getattr(self._exo.chunks, tag_of(chunk)).model_validate_json(json.dumps(chunk))


class Cancelled:
    """The last that is heard of a task which exo cancelled."""


class _Work:
    """The thread with the loop, and the answers that run on it."""

    def __init__(self, exo_model: str) -> None:
        config = load(os.environ)
        self.cluster = config.cluster
        self._node = open_node(config)
        self.exo_model = exo_model
        self._events: queue.SimpleQueue[tuple[Any, object]] = queue.SimpleQueue()
        self._tasks: dict[Any, asyncio.Task[None]] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="exo-rkllm", daemon=True)
        self._thread.start()
        self._source: LocalSource | None = None
        self.model = ""

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def load(self) -> None:
        """exo's name of the model is the entry's own, or one that a card of ours was published under."""
        names = {
            name: entry.id
            for entry in self._node.catalogue.list()
            for name in (entry.id, classic_id(entry), offers.model_id(entry.id))
        }
        short = self.exo_model.rpartition("/")[2]
        self.model = self._node.catalogue.resolve(names.get(self.exo_model) or names.get(short) or short).id
        self._source = LocalSource(self._node.dispatcher())
        await self._source.load(self.model)

    async def answer_all(self, request: GenerationRequest) -> list[object]:
        assert self._source is not None, "load came first"  # noqa: S101 - the order is exo's contract
        return [event async for event in self._source.answer(request)]

    def begin(self, task_id: Any, request: GenerationRequest) -> None:
        self.wait(self._begin(task_id, request))

    def refuse(self, task_id: Any, error: ExoRkllmError) -> None:
        self._events.put((task_id, error))

    async def _begin(self, task_id: Any, request: GenerationRequest) -> None:
        self._tasks[task_id] = asyncio.get_running_loop().create_task(self._answer(task_id, request))

    async def _answer(self, task_id: Any, request: GenerationRequest) -> None:
        assert self._source is not None, "load came first"  # noqa: S101 - the order is exo's contract
        events = lenient.answer(self._node, self._source.answer, request)
        try:
            async for event in events:
                self._events.put((task_id, event))
        except ExoRkllmError as error:
            self._events.put((task_id, error))
        except asyncio.CancelledError:
            self._events.put((task_id, Cancelled()))
        except Exception as error:  # noqa: BLE001 - raised where exo's runner reports it
            self._events.put((task_id, error))
        finally:
            self._tasks.pop(task_id, None)
            await events.aclose()

    def running(self) -> tuple[Any, ...]:
        return tuple(self._tasks)

    def end(self, task_id: Any) -> None:
        task = self._tasks.get(task_id)
        if task is not None:
            self._loop.call_soon_threadsafe(task.cancel)

    def take_events(self) -> Iterator[tuple[Any, object]]:
        try:
            yield self._events.get(timeout=PATIENCE if self._tasks else 0)
            while True:
                yield self._events.get_nowait()
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
