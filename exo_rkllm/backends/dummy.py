"""An engine without weights: it repeats the question, for tests and for hosts that want to see the path work."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path

from exo_rkllm.backends.base import (
    JSON,
    Capabilities,
    Engine,
    Finish,
    FinishReason,
    GenerationEvent,
    GenerationRequest,
    Model,
    Piece,
    Progress,
    Timings,
    Tokenizer,
    Usage,
)
from exo_rkllm.backends.registry import EngineOption, EngineSpec
from exo_rkllm.errors import ContextOverflow, ExoRkllmError, NotSupported, UsageError, unloaded

OPTIONS: Mapping[str, EngineOption] = {
    "tokens_per_second": EngineOption(float, 0.0, "pace of the answer; 0 means as fast as possible"),
    "load_seconds": EngineOption(float, 0.0, "how long loading takes"),
}


class WordTokenizer(Tokenizer):
    """A token is a word with the blanks in front of it, numbered in the order of first appearance."""

    def __init__(self) -> None:
        self._words: list[str] = []
        self._ids: dict[str, int] = {}

    def encode(self, text: str) -> list[int]:
        return [self._id(word) for word in re.findall(r"\s*\S+|\s+$", text)]

    def decode(self, tokens: Sequence[int]) -> str:
        return "".join(self._words[token] for token in tokens if 0 <= token < len(self._words))

    def _id(self, word: str) -> int:
        if word not in self._ids:
            self._ids[word] = len(self._words)
            self._words.append(word)
        return self._ids[word]


class DummyModel(Model):
    def __init__(self, name: str = "dummy", context: int = 4096, options: Mapping[str, JSON] | None = None) -> None:
        self._id = name
        self._context = context
        self._options = dict(options or {})
        self._words = WordTokenizer()

    @property
    def id(self) -> str:
        return self._id

    @property
    def engine(self) -> str:
        return "dummy"

    @property
    def path(self) -> Path | None:
        return None

    @property
    def context(self) -> int:
        return self._context

    @property
    def options(self) -> Mapping[str, JSON]:
        return self._options

    def tokenizer(self) -> Tokenizer:
        return self._words


class DummyEngine(Engine):
    """Works for any model; the model's context and the options above are honoured, so that limits can be seen."""

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        options = SPEC.options_of(model)
        negative = [name for name, value in options.items() if value < 0]
        if negative:
            raise UsageError(f"{model.id} sets {negative[0]} below 0.", "Write 0 or more.")
        self._pace, self._load = options["tokens_per_second"], options["load_seconds"]
        self._words = WordTokenizer()
        self._turn = asyncio.Lock()
        self._aborted: set[str] = set()
        self._closed: asyncio.Future[ExoRkllmError] | None = None

    async def initialize(self) -> None:
        self._closed = asyncio.get_running_loop().create_future()
        await asyncio.sleep(self._load)

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(chat=True, context=self.model.context)

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationEvent, None]:
        if request.output != "text":
            raise NotSupported(f"The dummy engine has no {request.output}.", "Use a model with engine = 'rkllm'.")
        self._alive()
        queued = time.monotonic()
        async with self._turn:
            self._alive()
            started = time.monotonic()
            question = self._tokens(request)
            room = self.model.context - len(question)
            if room <= 0:
                raise ContextOverflow(
                    f"The prompt has {len(question)} tokens, the context of {self.model.id} {self.model.context}.",
                    "Shorten the conversation.",
                )
            limit = room if request.max_tokens is None else min(room, request.max_tokens)
            yield Progress("prefill", len(question), len(question))
            sent, first = 0, started
            reason: FinishReason = "stop" if len(question) <= limit else "length"
            for token in question[:limit]:
                if self._pace:
                    await self._wait(1 / self._pace)
                elif sent % 64 == 63:
                    await asyncio.sleep(0)  # an answer of thousands of words must not hold the loop
                if request.id in self._aborted:
                    reason = "abort"
                    break
                self._alive()
                first = first if sent else time.monotonic()
                yield Piece(self._words.decode((token,)), token)
                sent += 1
            self._aborted.discard(request.id)
            yield Finish(
                reason,
                Usage(len(question), 0, sent),
                Timings(queued=started - queued, prefill=first - started, decode=time.monotonic() - first),
            )

    def _tokens(self, request: GenerationRequest) -> list[int]:
        if request.tokens is not None:
            return list(request.tokens)
        text = request.prompt if request.prompt is not None else request.messages[-1].content
        return self._words.encode(text)

    async def _wait(self, seconds: float) -> None:
        """A pause that ends when the engine is closed."""
        if self._closed is not None:
            await asyncio.wait({self._closed}, timeout=seconds)

    def _alive(self) -> None:
        if self._closed is None or self._closed.done():
            raise unloaded(self.model.id)

    async def abort(self, request_id: str) -> None:
        self._aborted.add(request_id)

    async def lost(self) -> ExoRkllmError:
        if self._closed is None:
            raise UsageError("An engine that was never initialized cannot be lost.")
        return await asyncio.shield(self._closed)

    async def close(self) -> None:
        if self._closed is not None and not self._closed.done():
            self._closed.set_result(unloaded(self.model.id))


SPEC = EngineSpec(
    "dummy", "repeats the question; no model, no NPU", make=lambda model, _host: DummyEngine(model), options=OPTIONS
)
