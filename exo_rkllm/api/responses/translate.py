"""From a response's items to our requests, and from our answers to items."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from exo_rkllm.api import common_fields
from exo_rkllm.api.response_format import ResponseFormat
from exo_rkllm.backends.base import Finish, GenerationRequest, Message, ToolCall, Usage
from exo_rkllm.backends.chat_body import data_url
from exo_rkllm.catalogue.entry import Entry

# ── questions ────────────────────────────────────────────────────────────────────────────────────


def messages_of(value: str | list[dict[str, Any]]) -> tuple[Message, ...]:
    """Several items may be one turn of the assistant there; here it is one message again."""
    if isinstance(value, str):
        return (Message("user", value),)
    messages: list[Message] = []
    for index, item in enumerate(value):
        _add(messages, item, f"input[{index}]")
    return tuple(messages)


def _add(messages: list[Message], item: Mapping[str, Any], where: str) -> None:
    turn = messages[-1] if messages and messages[-1].role == "assistant" else None
    kind = item["type"]
    if kind == "message":
        text, images = common_fields.content_of(item["content"], f"{where}.content")
        role = item["role"]
        if role == "assistant" and turn is not None and not turn.content and not turn.tool_calls:
            messages[-1] = dataclasses.replace(turn, content=text)
        else:
            messages.append(Message("system" if role == "developer" else role, text, images=images))
    elif kind == "function_call":
        call = ToolCall(item["call_id"], item["name"], item["arguments"])
        if turn is None:
            messages.append(Message("assistant", tool_calls=(call,)))
        else:
            messages[-1] = dataclasses.replace(turn, tool_calls=(*turn.tool_calls, call))
    elif kind == "function_call_output":
        text, images = common_fields.content_of(item["output"], f"{where}.output")
        messages.append(Message("tool", text, tool_call_id=item["call_id"], images=images))
    elif thoughts := "".join(part.get("text", "") for part in item.get("content", ())):
        messages.append(Message("assistant", reasoning=thoughts))


def generation_request(
    entry: Entry, values: Mapping[str, Any], conversation: tuple[Message, ...], shape: ResponseFormat
) -> GenerationRequest:
    instructions = values.get("instructions")
    system = (Message("system", instructions),) if instructions else ()
    offered = tuple(common_fields.tool_of(tool) for tool in values.get("tools", ()))
    tools, choice = common_fields.tools_and_choice(
        offered, values.get("tool_choice", "auto"), lambda tool: str(tool["name"])
    )
    return GenerationRequest(
        model=entry.id,
        messages=shape.with_instructions((*system, *conversation)),
        sampling=common_fields.sampling_of(values),
        max_tokens=common_fields.max_tokens_of(values.get("max_output_tokens")),
        tools=tools,
        tool_choice=choice,
        structure=shape.structure,
        thinking=common_fields.thinking_of(values.get("reasoning", {}).get("effort")),
    )


# ── answers ──────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class ResponseFrame:
    """What of a response is known before its answer: the question's settings, repeated."""

    id: str
    model: str
    created: int
    values: Mapping[str, Any]

    def value(
        self, status: str, output: list[Any], finish: Finish | None = None, thinking_tokens: int = 0
    ) -> dict[str, Any]:
        values = self.values
        is_cut = finish is not None and finish.reason == "length"
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": "incomplete" if is_cut else status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
            "instructions": values.get("instructions"),
            "max_output_tokens": values.get("max_output_tokens"),
            "metadata": values.get("metadata", {}),
            "model": self.model,
            "output": output,
            "parallel_tool_calls": values.get("parallel_tool_calls", True),
            "previous_response_id": values.get("previous_response_id"),
            "reasoning": {"effort": values.get("reasoning", {}).get("effort"), "summary": None},
            "store": values.get("store", True),
            "temperature": values.get("temperature"),
            "text": {"format": values.get("text", {}).get("format", {"type": "text"})},
            "tool_choice": values.get("tool_choice", "auto"),
            "tools": values.get("tools", []),
            "top_p": values.get("top_p"),
            "truncation": "disabled",
            "usage": None if finish is None else usage_value(finish.usage, thinking_tokens),
            "user": values.get("user"),
        }


def items_of(messages: tuple[Message, ...], response: str) -> list[dict[str, Any]]:
    """A conversation as items, the reverse of `messages_of`; ids are those of their places in the response."""
    items: list[dict[str, Any]] = []
    for message in messages:
        identity = f"{response.removeprefix('resp_')}_{len(items)}"
        if message.role == "tool":
            result = input_parts(message) if message.images else message.content
            output = {"call_id": message.tool_call_id, "output": result, "status": "completed"}
            items.append({"id": f"fco_{identity}", "type": "function_call_output", **output})
            continue
        if message.role == "assistant":
            items += [message_item(f"msg_{identity}", message.content)] if message.content else []
            items += map(call_item, message.tool_calls)
            continue
        item = {"type": "message", "role": message.role, "status": "completed", "content": input_parts(message)}
        items.append({"id": f"msg_{identity}", **item})
    return items


def input_parts(message: Message) -> list[dict[str, Any]]:
    return [
        {"type": "input_text", "text": part}
        if isinstance(part, str)
        else {"type": "input_image", "detail": "auto", "image_url": data_url(part)}
        for part in message.parts()
    ]


def usage_value(usage: Usage, thinking_tokens: int) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt,
        "input_tokens_details": {"cached_tokens": usage.cached},
        "output_tokens": usage.completion,
        "output_tokens_details": {"reasoning_tokens": thinking_tokens},
        "total_tokens": usage.prompt + usage.completion,
        **(common_fields.ESTIMATED if usage.guessed else {}),
    }


def message_item(identity: str, text: str | None, status: str = "completed") -> dict[str, Any]:
    content = [] if text is None else [text_part(text)]
    return {"id": identity, "type": "message", "role": "assistant", "status": status, "content": content}


def text_part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def reasoning_item(identity: str, text: str | None, status: str = "completed") -> dict[str, Any]:
    content = [] if text is None else [reasoning_part(text)]
    return {"id": identity, "type": "reasoning", "summary": [], "content": content, "status": status}


def reasoning_part(text: str) -> dict[str, Any]:
    return {"type": "reasoning_text", "text": text}


def call_item(call: ToolCall, status: str = "completed") -> dict[str, Any]:
    return {
        "id": f"fc_{call.id}",
        "type": "function_call",
        "call_id": call.id,
        "name": call.name,
        "arguments": call.arguments if status == "completed" else "",
        "status": status,
    }
