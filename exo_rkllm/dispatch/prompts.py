"""Prompts for the models of one dispatcher: their templates run in another process."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from exo_rkllm.backends.base import Capabilities, GenerationRequest, Model
from exo_rkllm.chat.chat_format import ChatModel
from exo_rkllm.chat.prompt import Prompt, render
from exo_rkllm.chat.renderer import Renderer
from exo_rkllm.errors import ExoRkllmError


class PromptMaker:
    def __init__(self) -> None:
        self.renderer = Renderer()
        self._compiling: set[asyncio.Task[None]] = set()

    async def render(self, request: GenerationRequest, model: Model, capabilities: Capabilities) -> Prompt:
        """As `chat.prompt.render` makes it."""
        return await render(request, model, capabilities, self.renderer.render)

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
