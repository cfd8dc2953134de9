"""From a request to an engine's raw answer: its prompt, rendered in another process, and the form that it is held to.

An answer without a form is the engine's own iterator: nothing is imported for it, and nothing stands in its way.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from exo_rkllm.backends.base import Capabilities, Engine, GenerationEvent, GenerationRequest, Model
from exo_rkllm.chat.chat_format import ChatModel
from exo_rkllm.chat.parser import ResponseParser
from exo_rkllm.chat.prompt import Prompt, render
from exo_rkllm.chat.renderer import Renderer
from exo_rkllm.errors import ExoRkllmError

if TYPE_CHECKING:  # imported with the first request that has a form
    from exo_rkllm.structure.matcher import MatcherHelper

# Choices of tools that leave it to the model.
FREE = frozenset({"none", "auto", ""})


class EarlyPrompt:
    """The prompt of a request that is the next one, made while the answer before it is computed."""

    def __init__(
        self, maker: PromptMaker, request: GenerationRequest, model: Model, engine: Engine, made: Callable[[], None]
    ) -> None:
        """`made` is told once the prompt is there."""
        self._capabilities = engine.capabilities
        self._make: Callable[[Capabilities], Coroutine[Any, Any, Prompt]] = lambda able: maker.render(
            request, model, able
        )
        self._task = asyncio.get_running_loop().create_task(self._make(self._capabilities))
        self._made = made
        self._task.add_done_callback(self._heard)

    async def of(self, engine: Engine) -> Prompt:
        """For the engine that will answer, which may be another one by now."""
        return await (self._task if engine.capabilities == self._capabilities else self._make(engine.capabilities))

    def made_for(self, engine: Engine) -> Prompt | None:
        """The prompt, if it is there already and without an error, for an engine with these capabilities."""
        task = self._task
        made = task.done() and not task.cancelled() and task.exception() is None
        return task.result() if made and engine.capabilities == self._capabilities else None

    def close(self) -> None:
        self._task.cancel()

    def _heard(self, task: asyncio.Task[Prompt]) -> None:
        """Its error is the request's, if its turn comes. What else takes time with a long prompt is done by then."""
        if not task.cancelled() and task.exception() is None:
            hash(task.result().request.prompt)  # which the text remembers, and engines look its length up by
            self._made()


class PromptMaker:
    def __init__(self) -> None:
        self.renderer = Renderer()
        self._compiling: set[asyncio.Task[None]] = set()
        self._matchers: MatcherHelper | None = None

    async def render(self, request: GenerationRequest, model: Model, capabilities: Capabilities) -> Prompt:
        """As `chat.prompt.render` makes it."""
        guided = request.structure is not None or (request.tool_choice not in FREE and bool(request.tools))
        if guided:
            from exo_rkllm.structure.matcher import installed

            guided = installed()
        return await render(request, model, capabilities, self.renderer.render, guided=guided)

    def early(self, request: GenerationRequest, model: Model, engine: Engine, made: Callable[[], None]) -> EarlyPrompt:
        return EarlyPrompt(self, request, model, engine, made)

    def answer(self, engine: Engine, prompt: Prompt, parser: ResponseParser) -> AsyncGenerator[GenerationEvent, None]:
        """The engine's raw answer, which `parser` reads."""
        if prompt.structure is None:
            return engine.generate(prompt.request)
        from exo_rkllm.structure.guide import guided
        from exo_rkllm.structure.matcher import MatcherHelper

        if self._matchers is None:
            self._matchers = MatcherHelper()
        return guided(self._matchers, engine, prompt, prompt.structure, lambda: parser.stopped)

    def compile(self, model: Model) -> None:
        """Beside the model's load, so that the first prompt does not wait for it."""
        task = asyncio.get_running_loop().create_task(self._compile(model))
        self._compiling.add(task)
        task.add_done_callback(self._compiling.discard)

    async def _compile(self, model: Model) -> None:
        with suppress(ExoRkllmError):  # the first request reports it
            if isinstance(model, ChatModel):
                chat_format = await asyncio.get_running_loop().run_in_executor(None, model.chat_format)
                await self.renderer.compile(model.id, chat_format.template)

    async def close(self) -> None:
        compiling = set(self._compiling)
        for task in compiling:
            task.cancel()
        if compiling:
            await asyncio.wait(compiling)
        self.renderer.close()
        if self._matchers is not None:
            self._matchers.close()
