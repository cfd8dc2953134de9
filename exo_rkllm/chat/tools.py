"""Offering tools to a model: which ones, in whose words, and what makes it call one."""

from __future__ import annotations

import json
from collections.abc import Sequence

from exo_rkllm.backends.base import GenerationRequest, Message, Tool
from exo_rkllm.chat.chat_format import ChatFormat
from exo_rkllm.chat.conversation import tool_value, with_system
from exo_rkllm.chat.formats import TOOLS, ToolFormat
from exo_rkllm.errors import UsageError


def choose(request: GenerationRequest) -> tuple[tuple[Tool, ...], str | None]:
    """The tools to offer, and the name that is forced: None for no force, empty for any tool."""
    choice = request.tool_choice
    if choice == "none" or not request.tools:
        if choice not in ("none", "auto", ""):
            raise UsageError(f"tool_choice is {choice!r}, and no tools are given.", "Give the tools with the request.")
        return (), None
    if choice in ("auto", ""):
        return request.tools, None
    if choice == "required":
        return request.tools, request.tools[0].name if len(request.tools) == 1 else ""
    if choice not in {tool.name for tool in request.tools}:
        listed = ", ".join(tool.name for tool in request.tools)
        raise UsageError(f"tool_choice names {choice!r}, which is not among the tools.", f"They are: {listed}.")
    return request.tools, choice


def tool_format_of(voice: ChatFormat, tools: Sequence[Tool]) -> ToolFormat | None:
    """The model's own way where it has one; otherwise the commonest, which then has to be explained to it."""
    if not tools:
        return None
    if voice.tools is not None and voice.tool_template is not None:
        return voice.tools
    return TOOLS["hermes"]


def with_instructions(messages: Sequence[Message], tools: Sequence[Tool]) -> tuple[Message, ...]:
    """For templates that say nothing of tools: a system message that does, and calls and results as plain words."""
    listed = "\n".join(json.dumps(tool_value(tool), ensure_ascii=False) for tool in tools)
    words = (
        f"You can call tools. These are the tools, one JSON object a line:\n{listed}\n"
        "To call a tool, answer with nothing but a JSON object between tags, and wait for its result:\n"
        '<tool_call>\n{"name": NAME, "arguments": OBJECT}\n</tool_call>'
    )
    return with_system(tuple(_plain(message) for message in messages), words)


def _plain(message: Message) -> Message:
    if message.role == "tool":
        return Message("user", f"<tool_response>\n{message.content}\n</tool_response>")
    if message.tool_calls:
        calls = "\n".join(
            f'<tool_call>\n{{"name": {json.dumps(made.name)}, "arguments": {made.arguments}}}\n</tool_call>'
            for made in message.tool_calls
        )
        return Message(message.role, f"{message.content}\n{calls}".strip(), message.reasoning)
    return message
