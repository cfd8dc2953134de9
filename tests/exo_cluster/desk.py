"""The board's side in the tests: models that count, think, call tools and fail as they are told, one at a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterable
from dataclasses import replace

from exo_rkllm.backends.base import Finish, GenerationEvent, GenerationRequest, Piece, Progress, Timings, Usage
from exo_rkllm.cluster.serving import ModelState, Servable
from exo_rkllm.errors import RunError

MODEL = Servable(
    id="Qwen3-1.7B-w8a8-rk3588",
    state="ready",
    size=2_097_152_000,
    layers=28,
    hidden_size=2048,
    kv_heads=8,
    context=4096,
    family="qwen",
    quantization="w8a8",
    base_model="Qwen3 1.7B",
    memory=123_456_789,
)


class Desk:
    """`Serving`: what is asked is a line of words, `count 5 think fail tool image wait 2`; `rate` is tokens/s."""

    def __init__(self, models: Iterable[Servable] = (MODEL,), rate: float = 0.0) -> None:
        self.rate = rate
        self.models = {model.id: model for model in models}
        self.loaded: list[str] = []
        self.running = 0
        self.stopped = 0
        self.times: list[tuple[float, float]] = []  # of each answer: when it was asked for, and its first piece
        self._turn = asyncio.Lock()
        self._changed = asyncio.Condition()

    async def offers(self) -> AsyncGenerator[tuple[Servable, ...], None]:
        while True:
            async with self._changed:
                shown = tuple(self.models.values())
            yield shown
            async with self._changed:
                if tuple(self.models.values()) == shown:
                    await self._changed.wait()

    async def change(self, model: str, state: ModelState, *, progress: float = 0.0, problem: str = "") -> None:
        async with self._changed:
            self.models[model] = replace(self.models[model], state=state, progress=progress, problem=problem)
            self._changed.notify_all()

    async def load(self, model: str) -> None:
        self.loaded.append(model)
        await self.change(model, "loading", progress=0.5)
        await asyncio.sleep(0.05)
        await self.change(model, "ready")

    async def generate(self, request: GenerationRequest, *, client: str) -> AsyncGenerator[GenerationEvent, None]:
        assert client == "exo"
        asked = time.monotonic()
        if self._turn.locked():
            yield Progress("queued", 1)
        async with self._turn:
            self.running += 1
            try:
                async for event in self._answer(request):
                    if asked and isinstance(event, Piece):
                        self.times.append((asked, time.monotonic()))
                        asked = 0.0
                    yield event
            except (asyncio.CancelledError, GeneratorExit):
                self.stopped += 1
                raise
            finally:
                self.running -= 1

    async def _answer(self, request: GenerationRequest) -> AsyncGenerator[GenerationEvent, None]:
        words = request.messages[-1].content.split()
        number = int(words[words.index("count") + 1]) if "count" in words else 5
        wait = float(words[words.index("wait") + 1]) if "wait" in words else 0.0
        thinking = number // 2 if "think" in words else 0
        await asyncio.sleep(wait)
        if "prefill" in words:
            for done in (0, 128, 256):
                yield Progress("prefill", done, 256)
        if "fail" in words:
            raise RunError("rkllm_run failed (simulated)", "Look at: journalctl -u exo-rkllm")
        if "tool" in words:
            yield Piece('{"id": "call-1", "name": "get_weather", "arguments": {"city": "Oslo"}}', kind="tool_call")
            yield Finish("tool_calls", Usage(5, 0, 5), Timings(prefill=0.05, decode=0.1))
            return
        if "image" in words:
            sizes = [f"{image.media_type}:{len(image.data)}" for image in request.messages[-1].images]
            yield Piece(" ".join(sizes), 0)
            yield Finish("stop", Usage(5, 0, 1))
            return
        limit = number if request.max_tokens is None else min(number, request.max_tokens)
        started = due = time.monotonic()
        for index in range(limit):
            if self.rate:
                due += 1 / self.rate
                await asyncio.sleep(max(0.0, due - time.monotonic()))
            elif index % 16 == 15:
                await asyncio.sleep(0)
            yield Piece(f"t{index} ", index, "thinking" if index < thinking else "answer")
        took = time.monotonic() - started
        yield Finish("stop" if limit == number else "length", Usage(7, 0, limit), Timings(prefill=0.07, decode=took))
