"""A daemon's HTTP side on loopback: real catalogue, dispatcher, dialogue and server; the engine says what it is told.

A question that holds `«words»` is answered with these words, any other with itself. The words come in pieces of
three characters, so that every tag and stop string is cut somewhere.
"""

from __future__ import annotations

import array
import asyncio
import re
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from exo_rkllm.api.application import application
from exo_rkllm.api.context import ApiContext, ApiServerSettings
from exo_rkllm.backends.base import (
    Array,
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
    Usage,
)
from exo_rkllm.backends.dummy import DummyEngine
from exo_rkllm.backends.registry import EngineSpec
from exo_rkllm.catalogue.store import Catalogue
from exo_rkllm.chat.template_source import TemplateSource
from exo_rkllm.dispatch.dispatcher import Dispatcher
from exo_rkllm.dispatch.state import DispatchLimits, ModelNeeds
from exo_rkllm.errors import ContextOverflow, ExoRkllmError, NotSupported, RunError, RunnerLost
from exo_rkllm.sampling import SAMPLING_NAMES

PIECE = 3
WIDTH = 8
SCRIPT = re.compile(r"«(.*?)»", re.DOTALL)
QUESTION = re.compile(r"<\|im_start\|>user\n(.*?)<\|im_end\|>", re.DOTALL)
CARDS = {
    "qwen": 'engine = "scripted"\nbase_model = "Qwen/Qwen2.5-1.5B-Instruct"\nquantization = "w8a8"\ncontext = 4096\n',
    "thinker": 'engine = "scripted"\ncontext = 4096\n[chat]\nfamily = "qwen3"\n',
    "slow": 'engine = "scripted"\ncontext = 4096\n[options]\npace = 0.02\n',
    "seer": 'engine = "scripted"\ncontext = 4096\n[chat]\ntemplate = "seer.jinja"\n',
    "dummy": 'engine = "dummy"\ncontext = 1000000\n',
}
# A template that takes parts, as those of models that see do.
SEER = """{% for message in messages %}<|im_start|>{{ message.role }}
{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content -%}
{{ part.text if part.type == "text" else "<image>" }}{% endfor %}{% endif %}<|im_end|>
{% endfor %}<|im_start|>assistant
"""


@dataclass
class Ledger:
    """What the engines saw, for tests to look at; `answers` are given to these questions instead of the question."""

    answers: Mapping[str, str] = field(default_factory=dict)
    requests: list[GenerationRequest] = field(default_factory=list)
    begun: int = 0
    ended: int = 0
    left: int = 0


class Scripted(Engine):
    def __init__(self, model: Model, ledger: Ledger) -> None:
        super().__init__(model)
        self.ledger = ledger
        self._turn = asyncio.Lock()
        self._aborted: set[str] = set()
        self._lost: asyncio.Future[ExoRkllmError] = asyncio.get_running_loop().create_future()

    async def initialize(self) -> None:
        return

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(hidden=True, images=self.model.id == "seer", context=self.model.context)

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationEvent, None]:
        async with self._turn:
            self.ledger.requests.append(request)
            self.ledger.begun += 1
            done = False
            try:
                async for event in self._answer(request):
                    yield event
                done = True
            finally:
                self.ledger.ended += done
                self.ledger.left += not done

    async def _answer(self, request: GenerationRequest) -> AsyncIterator[GenerationEvent]:
        if request.sampling.seed is not None:
            raise NotSupported("This runtime takes no seed.", "Leave it out.")
        prompt = request.prompt or ""
        tokens = len(prompt.split()) if request.tokens is None else len(request.tokens)
        if tokens > self.model.context:
            raise ContextOverflow(f"The prompt has {tokens} tokens, the context {self.model.context}.", "Shorten it.")
        yield Progress("prefill", tokens, tokens)
        if request.output == "hidden":
            words = prompt.split() if request.tokens is None else map(str, request.tokens)
            rows = [float(sum(map(ord, word)) % 97 + column) for word in words for column in range(WIDTH)]
            yield Array("hidden", len(rows) // WIDTH, WIDTH, memoryview(array.array("f", rows)).cast("B"))
            yield Finish("stop", Usage(tokens, 0, 0), Timings(prefill=0.001))
            return
        said = _said(prompt, self.ledger.answers)
        pieces = [said[at : at + PIECE] for at in range(0, len(said), PIECE)]
        limit = len(pieces) if request.max_tokens is None else min(len(pieces), request.max_tokens)
        reason: FinishReason = "stop" if limit == len(pieces) else "length"
        sent = 0
        for text in pieces[:limit]:
            await asyncio.sleep(float(self.model.options.get("pace", 0)))  # type: ignore[arg-type]
            if request.id in self._aborted:
                reason = "abort"
                break
            if said.startswith("!break") and sent == 5:
                raise RunError("The runtime gave up.", "Ask again.")
            yield Piece(text, sent)
            sent += 1
        decode = sent * float(self.model.options.get("pace", 0)) or 0.004  # type: ignore[arg-type]
        yield Finish(reason, Usage(tokens, min(tokens, 2), sent), Timings(prefill=0.002, decode=decode))

    async def abort(self, request_id: str) -> None:
        self._aborted.add(request_id)

    async def lost(self) -> ExoRkllmError:
        return await asyncio.shield(self._lost)

    async def close(self) -> None:
        if not self._lost.done():
            self._lost.set_result(RunnerLost("Closed.", "Load it again."))


SCRIPTED = EngineSpec(
    "scripted",
    "answers with what the question holds",
    make=lambda model, host: Scripted(model, Ledger()),
    sampling=SAMPLING_NAMES - {"seed", "min_p"},
)


def _said(prompt: str, answers: Mapping[str, str]) -> str:
    """The script in the last question, or the question, or for a bare prompt that itself."""
    asked = QUESTION.findall(prompt)
    question = asked[-1] if asked else prompt
    if question in answers:
        return answers[question]
    scripts = SCRIPT.findall(question)
    return scripts[-1] if scripts else question


@dataclass
class World:
    url: str
    port: int
    folder: Path
    catalogue: Catalogue
    dispatcher: Dispatcher
    ledger: Ledger
    http: aiohttp.ClientSession


@asynccontextmanager
async def world(
    settings: ApiServerSettings | None = None,
    limits: DispatchLimits | None = None,
    parts: Callable[..., ApiContext] = ApiContext,
    cards: Mapping[str, str] = CARDS,
    answers: Mapping[str, str] | None = None,
    **more: Any,
) -> AsyncIterator[World]:
    ledger = Ledger(answers or {})
    with tempfile.TemporaryDirectory() as folder:
        catalogue = Catalogue(Path(folder))
        for name, text in cards.items():
            (Path(folder) / name).mkdir()
            (Path(folder) / name / "model.toml").write_text(f'id = "{name}"\n{text}')
            (Path(folder) / name / "seer.jinja").write_text(SEER)
        dispatcher = Dispatcher(
            find=catalogue.resolve,
            engine=lambda model: DummyEngine(model) if model.engine == "dummy" else Scripted(model, ledger),
            needs=lambda model: ModelNeeds(),
            available=lambda: 8 << 30,
            limits=limits or DispatchLimits(),
        )
        # As after the first load of a daemon: tests that count tenths of a second do not count the helper's start.
        await dispatcher._prompts.renderer.compile("seer", TemplateSource(SEER))
        made = parts(
            dispatcher=dispatcher,
            catalogue=catalogue,
            settings=lambda: settings or ApiServerSettings(),
            engine_spec=lambda model: replace(SCRIPTED, images=model.id == "seer"),
            **more,
        )
        runner = web.AppRunner(application(made), access_log=None, lingering_time=0.2)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        url = f"http://127.0.0.1:{port}"
        async with aiohttp.ClientSession() as http:
            try:
                yield World(url, port, Path(folder), catalogue, dispatcher, ledger, http)
            finally:
                await runner.cleanup()
                made.tokenizers.close()
                await dispatcher.drain(0)
