"""An engine whose every failing can be arranged: how it loads, speaks, stops and dies."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from exo_rkllm.backends.base import (
    Capabilities,
    Engine,
    Finish,
    GenerationEvent,
    GenerationRequest,
    Model,
    Piece,
    Timings,
    Usage,
)
from exo_rkllm.backends.observer import AnswerReport, LoadReport, RestartReport
from exo_rkllm.dispatch.dispatcher import Dispatcher
from exo_rkllm.dispatch.state import DispatchLimits, ModelNeeds
from exo_rkllm.errors import ExoRkllmError, ModelNotFound, RunnerLost


class Card(Model):
    def __init__(self, name: str) -> None:
        self._name = name

    @property
    def id(self) -> str:
        return self._name

    @property
    def engine(self) -> str:
        return "puppet"

    @property
    def path(self) -> Path | None:
        return None

    @property
    def context(self) -> int:
        return 4096


@dataclass
class Stage:
    """What the puppets do, and what was seen of them; one for each model's name."""

    pace: float = 0.0  # seconds a piece
    load: float = 0.0
    abort_takes: float = 0.0
    parallel: int = 1
    memory: int | None = 1000
    fails: list[BaseException] = field(default_factory=list)  # one for each coming initialize
    silent: bool = False  # end without a Finish
    goes_ahead: bool = False  # takes a run before its turn
    ahead: list[str] = field(default_factory=list)  # what was taken so
    withdrawn: list[str] = field(default_factory=list)
    close: BaseException | None = None  # what closing raises
    settle: BaseException | None = None  # what waiting for the end of an abort raises
    engines: list[Puppet] = field(default_factory=list)
    on_hardware: int = 0
    most_on_hardware: int = 0
    started: list[str] = field(default_factory=list)


class Puppet(Engine):
    """Answers with the words of the prompt."""

    def __init__(self, model: Model, stage: Stage) -> None:
        super().__init__(model)
        self.stage = stage
        self.closed = False
        self.died: asyncio.Future[ExoRkllmError] = asyncio.get_running_loop().create_future()
        self.aborted: set[str] = set()
        self.leaving: dict[str, asyncio.Task[None]] = {}
        self.begun: asyncio.Task[None] | None = None
        stage.engines.append(self)

    async def initialize(self) -> None:
        await asyncio.sleep(self.stage.load)
        if self.stage.fails:
            raise self.stage.fails.pop(0)

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(chat=True, parallel=self.stage.parallel, context=4096)

    @property
    def memory(self) -> int | None:
        return self.stage.memory

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationEvent, None]:
        stage = self.stage
        if self.died.done():
            raise self.died.result()
        stage.started.append(request.id)
        stage.on_hardware += 1
        stage.most_on_hardware = max(stage.most_on_hardware, stage.on_hardware)
        words, sent, over = (request.prompt or "").split(), 0, False
        try:
            for word in words:
                if stage.pace:
                    await asyncio.wait({self.died}, timeout=stage.pace)
                if self.died.done():
                    over = True
                    raise self.died.result()
                if request.id in self.aborted:
                    break
                sent += 1
                yield Piece(word + " ", sent)
            over = True
            if not stage.silent:
                reason = "abort" if sent < len(words) else "stop"
                yield Finish(reason, Usage(len(words), 0, sent), Timings(queued=0.5))  # type: ignore[arg-type] # a Literal
        finally:
            if over:
                stage.on_hardware -= 1
            else:
                self.leaving[request.id] = asyncio.get_running_loop().create_task(self._abort())

    async def _abort(self) -> None:
        await asyncio.sleep(self.stage.abort_takes)
        self.stage.on_hardware -= 1

    async def abort(self, request_id: str) -> None:
        self.aborted.add(request_id)

    def queue_ahead(self, request: GenerationRequest) -> bool:
        if self.stage.goes_ahead:
            self.stage.ahead.append(request.id)
        return self.stage.goes_ahead

    def withdraw(self, request_id: str) -> None:
        """As if it had begun a moment before."""
        self.stage.withdrawn.append(request_id)
        self.stage.on_hardware += 1
        self.begun = asyncio.get_running_loop().create_task(self._abort())

    async def settled(self, request_id: str) -> None:
        if self.stage.settle is not None:
            raise self.stage.settle
        if request_id in self.leaving:
            await self.leaving.pop(request_id)
        if self.begun is not None:
            await self.begun

    async def lost(self) -> ExoRkllmError:
        return await asyncio.shield(self.died)

    def die(self, sentence: str = "The puppet died.") -> None:
        self.died.set_result(RunnerLost(sentence))

    async def close(self) -> None:
        self.closed = True
        if self.stage.close is not None:
            raise self.stage.close
        if not self.died.done():
            self.die("The puppet was closed.")


class Seen:
    """An observer that keeps everything."""

    def __init__(self) -> None:
        self.answers: list[AnswerReport] = []
        self.loads: list[LoadReport] = []
        self.restarts: list[RestartReport] = []

    def answered(self, event: AnswerReport) -> None:
        self.answers.append(event)

    def loaded(self, event: LoadReport) -> None:
        self.loads.append(event)

    def restarted(self, event: RestartReport) -> None:
        self.restarts.append(event)


class Theatre:
    """A dispatcher over puppets; every model that has a stage exists."""

    # One that is dropped with its engines running is collected in the middle of them.
    kept: ClassVar[list[Theatre]] = []

    def __init__(self, *names: str, memory: int = 10_000, limits: DispatchLimits | None = None) -> None:
        self.kept.append(self)
        self.stages = {name: Stage() for name in names}
        self.memory = memory
        self.needs = ModelNeeds(1000, 1000)
        self.seen = Seen()
        self.dispatcher = Dispatcher(
            observer=self.seen,
            find=self._find,
            engine=lambda model: Puppet(model, self.stages[model.id]),
            needs=lambda model: self.needs,
            available=lambda: self.memory,
            limits=limits or DispatchLimits(reserve=0),
        )

    def _find(self, name: str) -> Model:
        if name not in self.stages:
            raise ModelNotFound(f"There is no model {name}.", "exo-rkllm models")
        return Card(name)

    def puppet(self, name: str) -> Puppet:
        return self.stages[name].engines[-1]

    def ask(
        self, model: str, words: str = "one two three", *, client: str = "", keep_alive: float | None = None
    ) -> AsyncGenerator[GenerationEvent, None]:
        return self.dispatcher.generate(
            GenerationRequest(model=model, prompt=words), client=client, keep_alive=keep_alive
        )

    async def answer(self, model: str, words: str = "one two three", *, client: str = "") -> str:
        return text([event async for event in self.ask(model, words, client=client)])


def text(events: list[GenerationEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, Piece)).strip()


async def until(condition: Callable[[], object], seconds: float = 5.0) -> None:
    """Gives the loop its turns until something holds."""
    by = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < by, "it never came to that"
        await asyncio.sleep(0.001)
