"""Messages and tools in the shape that Hugging Face's templates expect, and what is done for templates that refuse."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from exo_rkllm.backends.base import Message, Tool
from exo_rkllm.errors import TemplateError

if TYPE_CHECKING:
    from exo_rkllm.chat.template import Template


def message_value(message: Message, *, text: bool = False) -> dict[str, Any]:
    value: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.images:
        value["content"] = [{"type": "image"} for _ in message.images] + [{"type": "text", "text": message.content}]
    if message.reasoning:
        value["reasoning_content"] = value["thought"] = message.reasoning  # the second is MiniCPM3's word
    if message.tool_calls:
        value["tool_calls"] = [
            {
                "id": made.id,
                "type": "function",
                "function": {"name": made.name, "arguments": made.arguments if text else _arguments(made.arguments)},
            }
            for made in message.tool_calls
        ]
    if message.tool_call_id:
        value["tool_call_id"] = message.tool_call_id
    if message.name:
        value["name"] = message.name
    return value


def _arguments(text: str) -> Any:
    """Templates walk over the arguments, so they get the object; what is none stays text."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, dict) else text


def tool_value(tool: Tool) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", "function": function}


def with_system(messages: Sequence[Message], words: str) -> tuple[Message, ...]:
    """The words in a system message: the one there is, or a new one in front."""
    if messages and messages[0].role == "system":
        first = dataclasses.replace(messages[0], content=f"{messages[0].content}\n\n{words}".strip())
        return (first, *messages[1:])
    return (Message("system", words), *messages)


def without_system(messages: Sequence[Message]) -> tuple[Message, ...]:
    """System words in front of the first question, for templates that know no system role (Gemma 2)."""
    words = "\n\n".join(message.content for message in messages if message.role == "system" and message.content)
    rest = [message for message in messages if message.role != "system"]
    for index, message in enumerate(rest):
        if message.role == "user":
            rest[index] = dataclasses.replace(message, content=f"{words}\n\n{message.content}".strip())
            break
    return tuple(rest)


def render(template: Template, messages: Sequence[Message], tools: Sequence[Tool], *, thinking: bool | None) -> str:
    """The prompt. Where the template refuses, what differs between templates is tried before its word is final:
    arguments as text (DeepSeek), and system words said by the user (Gemma)."""
    switches = {} if thinking is None else {"enable_thinking": thinking, "thinking": thinking}
    offered = [tool_value(tool) for tool in tools] or None
    refusal: TemplateError | None = None
    for those, text in _attempts(messages):
        try:
            return template.render(
                messages=[message_value(message, text=text) for message in those],
                tools=offered,
                documents=None,
                add_generation_prompt=True,
                **switches,
            )
        except TemplateError as error:
            refusal = refusal or error
    raise refusal or TemplateError("There is nothing to answer.", "Give at least one message.")


def _attempts(messages: Sequence[Message]) -> Iterator[tuple[Sequence[Message], bool]]:
    calls = any(message.tool_calls for message in messages)
    yield messages, False
    if calls:
        yield messages, True
    if any(message.role == "system" for message in messages):
        yield without_system(messages), False
        if calls:
            yield without_system(messages), True
