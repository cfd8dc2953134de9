"""A dispatcher and its control socket, with engines that only repeat: `python -m tests.top.daemon SOCKET REQUESTS`."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from contextlib import aclosing

from aiohttp import web

from exo_rkllm.api.control import PREFIX, ControlContext, application
from exo_rkllm.backends.base import GenerationRequest, Model
from exo_rkllm.backends.dummy import DummyEngine, DummyModel
from exo_rkllm.dispatch.dispatcher import Dispatcher
from exo_rkllm.dispatch.state import ModelNeeds
from exo_rkllm.log.ring import Ring

MODELS: dict[str, Model] = {
    "qwen3-1.7b": DummyModel("qwen3-1.7b", options={"tokens_per_second": 14.0}),
    "gemma3-1b": DummyModel("gemma3-1b", options={"tokens_per_second": 21.0}),
    "deepseek-r1-distill-qwen-1.5b": DummyModel("deepseek-r1-distill-qwen-1.5b", options={"load_seconds": 600.0}),
}
NEEDS = {"qwen3-1.7b": 2_100_000_000, "gemma3-1b": 1_300_000_000, "deepseek-r1-distill-qwen-1.5b": 1_700_000_000}
CLIENTS = ("10.0.0.17", "10.0.0.23", "home-assistant", "open-webui")


async def question(dispatcher: Dispatcher, number: int) -> None:
    model = list(MODELS)[number % len(MODELS)]
    request = GenerationRequest(model=model, prompt="word " * 2000, id=f"{number:02d}f3a9c1e7b2")
    async with aclosing(dispatcher.generate(request, client=CLIENTS[number % len(CLIENTS)])) as answer:
        async for _ in answer:
            pass


async def main(socket: str, requests: int, ready: Callable[[], object]) -> None:
    dispatcher = Dispatcher(
        find=MODELS.__getitem__,
        engine=DummyEngine,
        needs=lambda model: ModelNeeds(NEEDS[model.id]),
        available=lambda: 12 << 30,
    )
    app = web.Application()
    app.add_subapp(PREFIX, application(ControlContext(dispatcher, Ring(), reload=dict, facts=dict)))
    runner = web.AppRunner(app)
    await runner.setup()
    await web.UnixSite(runner, socket).start()
    questions = [asyncio.ensure_future(question(dispatcher, number)) for number in range(requests)]
    ready()
    await asyncio.gather(*questions)
    await asyncio.sleep(3600)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), lambda: os.write(1, b"ready\n")))
