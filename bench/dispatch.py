"""What the dispatcher adds: to each piece of an answer, and to each request."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator

from bench.rig import engine
from bench.table import Row, show
from exo_rkllm.backends.base import Capabilities, Engine, Finish, GenerationEvent, GenerationRequest, Model, Piece
from exo_rkllm.backends.dummy import DummyEngine, DummyModel
from exo_rkllm.dispatch.dispatcher import Dispatcher
from exo_rkllm.dispatch.state import ModelNeeds
from exo_rkllm.errors import ExoRkllmError

ROUNDS = 5
PIECES = 100_000
CLIENTS = 32
TURNS = 50


class Ready(DummyEngine):
    """Every piece is ready at once, as after a burst of the child."""

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(context=PIECES)

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationEvent, None]:
        for number in range(request.max_tokens or 0):
            yield Piece("word ", number)
        yield Finish("stop")


class Talking(Ready):
    """Takes messages itself, so that nothing is rendered."""

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(chat=True, context=PIECES)


class Borrowed(Ready):
    """Somebody else's engine, which is loaded already and closed by them."""

    def __init__(self, model: Model, real: Engine) -> None:
        super().__init__(model)
        self._real = real

    def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationEvent, None]:
        return self._real.generate(request)

    async def lost(self) -> ExoRkllmError:
        return await self._real.lost()


def dispatcher(loaded: Engine) -> Dispatcher:
    return Dispatcher(
        find=lambda name: loaded.model,
        engine=lambda model: loaded,
        needs=lambda model: ModelNeeds(),
        available=lambda: 1 << 33,
    )


async def read(answer: AsyncGenerator[GenerationEvent, None]) -> float:
    """Pieces a second from the first to the last."""
    count, first = 0, 0.0
    async for event in answer:
        if type(event) is Piece:
            first = first or time.perf_counter()
            count += 1
    return count / (time.perf_counter() - first)


async def pieces(loaded: Engine) -> list[float]:
    asked = GenerationRequest(model="dummy", prompt="hi", max_tokens=PIECES)
    through = dispatcher(loaded)
    speeds = [await read(through.generate(asked)) for _ in range(ROUNDS)]
    await through.drain(1.0)
    return speeds


async def bare() -> list[float]:
    asked = GenerationRequest(prompt="hi", max_tokens=PIECES)
    return [await read(Ready(DummyModel()).generate(asked)) for _ in range(ROUNDS)]


async def from_the_child() -> list[float]:
    asked = GenerationRequest(model="bench", prompt="hi", max_tokens=PIECES)
    async with engine() as real:
        through = dispatcher(Borrowed(real.model, real))
        speeds = [await read(through.generate(asked)) for _ in range(ROUNDS)]
        await through.drain(1.0)
    return speeds


async def requests() -> list[float]:
    """Microseconds a request of one piece, with 32 clients who ask again at once."""
    through = dispatcher(Talking(DummyModel()))

    async def client(name: str) -> None:
        for _ in range(TURNS):
            asked = GenerationRequest(model="dummy", prompt="hi", max_tokens=1)
            async for _ in through.generate(asked, client=name):
                pass

    costs = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        await asyncio.gather(*(client(str(number)) for number in range(CLIENTS)))
        costs.append((time.perf_counter() - began) / CLIENTS / TURNS * 1e6)
    await through.drain(1.0)
    return costs


async def tables() -> list[Row]:
    return [
        Row("pieces from an iterator alone", "pieces/s", await bare()),
        Row("through the dispatcher", "pieces/s", await pieces(Talking(DummyModel())), "60,000"),
        Row("with a rendered prompt", "pieces/s", await pieces(Ready(DummyModel())), "60,000"),
        Row("from the child, through both", "pieces/s", await from_the_child(), "60,000"),
        Row("a request, 32 clients in the queue", "µs", await requests()),
    ]


def main() -> None:
    show("dispatch", asyncio.run(tables()))
