"""How much work a request is, as instructions of Python: the same on a busy machine as on a quiet one.

They do not tell what the kernel, C and cold memory cost (see bench/http.py for these), but a change that makes the
daemon do more shows in them at once, and on any machine.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

from aiohttp import web

from bench.dispatch import Talking
from bench.handover import conversation
from bench.http import Connection, models
from bench.rig import LIBRARY, board
from exo_rkllm.api.application import application
from exo_rkllm.api.context import ApiContext
from exo_rkllm.api.status_models import ModelRows, differences
from exo_rkllm.backends.base import GenerationRequest, Model, Piece
from exo_rkllm.backends.dummy import DummyModel
from exo_rkllm.backends.host import EngineHost
from exo_rkllm.backends.rkllm import RkllmEngine
from exo_rkllm.catalogue.folder_watch import FolderWatch
from exo_rkllm.catalogue.store import Catalogue
from exo_rkllm.chat.families import FAMILIES
from exo_rkllm.chat.rendering import render_template
from exo_rkllm.dispatch.dispatcher import Dispatcher
from exo_rkllm.dispatch.state import DispatchLimits, ModelNeeds
from exo_rkllm.runner.launch import FLAGS
from exo_rkllm.runtime.locate import only

FEW, MANY = 10, 30
ROUNDS = 3
ENTRIES = 508
CROWD = 512


class Work:
    """`instructions` grows while it is counted."""

    instructions = 0


@contextmanager
def counting() -> Iterator[Work]:
    """Of everything that this thread enters meanwhile."""
    work = Work()

    def inside(_frame: FrameType, event: str, _argument: object) -> Callable[..., Any]:
        if event == "opcode":
            work.instructions += 1
        return inside

    def enter(frame: FrameType, _event: str, _argument: object) -> Callable[..., Any]:
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return inside

    before = sys.gettrace()  # coverage's, in a test
    sys.settrace(enter)
    try:
        yield work
    finally:
        sys.settrace(before)


def make(model: Model) -> RkllmEngine:
    return RkllmEngine(model, EngineHost(lambda _lines: None, only(LIBRARY)))


async def of_requests(folder: Path) -> dict[str, float]:
    """In the daemon's own thread, of streams over HTTP from a simulated library; the client is another thread."""
    catalogue = Catalogue(folder)
    catalogue.watch = FolderWatch(folder, lambda: None)
    dispatcher = Dispatcher(
        find=catalogue.resolve, engine=make, needs=lambda model: ModelNeeds(), available=lambda: 1 << 40
    )
    runner = web.AppRunner(application(ApiContext(dispatcher, catalogue)), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    connection = Connection(runner.addresses[0][1])

    async def answered(messages: list[dict[str, str]], tokens: int) -> int:
        with counting() as work:
            await asyncio.to_thread(lambda: list(connection.ask_all("quick", messages, tokens)))
        return work.instructions

    async def middle(messages: list[dict[str, str]], tokens: int) -> float:
        return median([await answered(messages, tokens) for _ in range(ROUNDS)])

    hello = conversation(1, 40)
    await answered(hello, 1)  # loads the model
    few, many = await middle(hello, FEW), await middle(hello, MANY)
    token = (many - few) / (MANY - FEW)
    long = await middle(conversation(201, 116_000), FEW)
    connection.socket.close()
    await dispatcher.drain(0)
    await runner.cleanup()
    catalogue.watch.close()
    return {"a token": token, "a request": few - FEW * token, "a request of 201 messages": long - FEW * token}


def of_catalogue(folder: Path) -> dict[str, float]:
    """Finding a model, and what an open page costs each second, with many models."""
    for number in range(ENTRIES):
        entry = folder / f"m{number}"
        entry.mkdir()
        (entry / "model.toml").write_text(f'id = "m{number}"\nengine = "dummy"\n')
    catalogue = Catalogue(folder)
    catalogue.watch = FolderWatch(folder, lambda: None)
    rows = ModelRows()

    def status() -> dict[str, Any]:
        return {"models": rows.of(catalogue.list(), (), {}, lambda _entry: None)}

    before = status()
    catalogue.resolve("m1")
    with counting() as find:
        catalogue.resolve("m7")
    with counting() as page:
        assert differences(before, status()) == {}
    catalogue.watch.close()
    return {f"finding one of {ENTRIES} models": find.instructions, f"a page, with {ENTRIES} models": page.instructions}


def of_template() -> float:
    """For each message of a long conversation, in the helper process."""
    template, messages = FAMILIES["qwen3"].template, conversation(201, 116_000)
    render_template("bench", template, (), messages, [], None)  # which compiles it
    with counting() as work:
        render_template("bench", template, (), messages, [], None)
    return work.instructions / len(messages)


async def of_crowd(count: int) -> float:
    """For each of so many waiting requests that leave at once."""
    loaded = Talking(DummyModel("bench"))
    limits = DispatchLimits(queue=CROWD, queue_per_client=CROWD)
    dispatcher = Dispatcher(
        find=lambda _name: loaded.model,
        engine=lambda _model: loaded,
        needs=lambda _model: ModelNeeds(),
        available=lambda: 1 << 40,
        limits=limits,
    )
    await dispatcher.load("bench")
    answers = [dispatcher.generate(GenerationRequest(model="bench", max_tokens=9)) for _ in range(count + 1)]
    while not isinstance(await anext(answers[0]), Piece):
        pass
    waiting = [asyncio.ensure_future(_drain(answer)) for answer in answers[1:]]
    while dispatcher.status().waiting < count:  # noqa: ASYNC110 - each turn brings some of them
        await asyncio.sleep(0)
    with counting() as work:
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
        await asyncio.sleep(0)
    await answers[0].aclose()
    await dispatcher.drain(0)
    return work.instructions / count


async def _drain(answer: Any) -> None:
    async for _ in answer:
        pass


def modules(flags: tuple[str, ...], statement: str) -> float:
    """In memory after a statement, in a process that is started with these flags."""
    code = f"import sys; sys.path.insert(0, '.'); {statement}; print(len(sys.modules))"
    return int(subprocess.run([sys.executable, *flags, "-c", code], check=True, capture_output=True).stdout)


def measure() -> Mapping[str, float]:
    with TemporaryDirectory() as root, TemporaryDirectory() as name, TemporaryDirectory() as many:
        board(Path(root))
        models(Path(name))
        found = asyncio.run(of_requests(Path(name))) | of_catalogue(Path(many))
    found |= {f"leaving, one of {count}": asyncio.run(of_crowd(count)) for count in (CROWD // 8, CROWD)}
    found["a message, in a template"] = of_template()
    found["modules of a model's process"] = modules(FLAGS, "import exo_rkllm.runner.child")
    found["modules of the daemon"] = modules((), "import exo_rkllm.daemon.server")
    return {what: round(value, 1) for what, value in found.items()}


def main() -> None:
    for what, value in measure().items():
        print(f"  {what:34} {value:10,.0f}")
