from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from exo_rkllm.api.response_format import ResponseFormat
from exo_rkllm.backends.base import Finish, GenerationEvent, GenerationRequest, Message, Model, Piece, Tool, ToolCall
from exo_rkllm.backends.host import EngineHost
from exo_rkllm.backends.rkllm import RkllmEngine
from exo_rkllm.chat.toolcall import read_tool_call
from exo_rkllm.dispatch.dispatcher import Dispatcher
from exo_rkllm.dispatch.state import DispatchLimits, ModelNeeds
from exo_rkllm.runtime.locate import only
from tests.backends.npu_fixtures import Card
from tests.simulated import Library


@dataclass
class Answer:
    """An answer as its reader got it."""

    text: str
    thoughts: str
    calls: list[ToolCall]
    finish: Finish
    pieces: list[Piece]


@dataclass
class Talk:
    """A simulated model behind a dispatcher. `prompts` are those that its engine was given."""

    dispatcher: Dispatcher
    prompts: list[str] = field(default_factory=list)

    async def ask(self, shape: ResponseFormat, question: str, **fields: Any) -> Answer:
        messages = shape.with_instructions([Message("user", question)])
        request = GenerationRequest(model="m", messages=messages, structure=shape.structure, **fields)
        events: list[GenerationEvent] = [event async for event in self.dispatcher.generate(request)]
        pieces = [event for event in events if isinstance(event, Piece)]
        finish = events[-1]
        assert isinstance(finish, Finish)
        return Answer(
            "".join(piece.text for piece in pieces if piece.kind == "answer"),
            "".join(piece.text for piece in pieces if piece.kind == "thinking"),
            [read_tool_call(piece) for piece in pieces if piece.kind == "tool_call"],
            finish,
            pieces,
        )

    async def call(self, arguments: Any, *tools: Tool, choice: str = "required") -> Answer:
        """A forced call; the model means to call the first tool with these arguments."""
        call = f"<tool_call>\n{json.dumps({'name': tools[0].name, 'arguments': arguments})}\n</tool_call>"
        return await self.ask(ResponseFormat("text"), call, tools=tools, tool_choice=choice)


Talks = Callable[..., AbstractAsyncContextManager[Talk]]


@pytest.fixture
def talks(library: Library, board_root: Path, make_model: Callable[..., Path]) -> Talks:
    """`async with talks(error_rate=0.05) as talk`: a model that repeats the question as its answer."""

    @asynccontextmanager
    async def open_one(version: str = "1.3.1", family: str = "qwen2.5-1.5b", **situation: Any) -> AsyncIterator[Talk]:
        # Without the rule, the simulator answers a question that names a tool with a call of its own.
        repeating = {"reply": "{user}", "rules": (("tool_call", "{user}"),), "continues": True, **situation}
        model = Card(make_model(file=f"{family}.rkllm", **repeating), {})
        host = EngineHost(lambda _: None, only(library(version)))

        class Recording(RkllmEngine):
            def generate(self, request: GenerationRequest) -> Any:
                talk.prompts.append(request.prompt or "")
                return super().generate(request)

        def find(_name: str) -> Model:
            return model

        dispatcher = Dispatcher(
            find=find,
            engine=lambda one: Recording(one, host),
            needs=lambda _: ModelNeeds(),
            available=lambda: 8 << 30,
            limits=DispatchLimits(),
        )
        talk = Talk(dispatcher)
        try:
            yield talk
        finally:
            await dispatcher.drain(0)

    return open_one
