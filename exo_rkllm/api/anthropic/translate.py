"""From Anthropic's messages to our requests, and from our answers to its blocks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from exo_rkllm.api import common_fields
from exo_rkllm.api.anthropic.tables import BLOCKS
from exo_rkllm.api.streaming import CompleteAnswer
from exo_rkllm.backends.base import (
    Finish,
    FinishReason,
    GenerationRequest,
    Image,
    Message,
    Role,
    ToolCall,
    Usage,
    content_of,
)
from exo_rkllm.catalogue.entry import Entry
from exo_rkllm.schema.specs import FieldError

# Blocks that are parts of what somebody says.
PARTS = ("text", "document", "image")
THINKING: Mapping[str, bool | None] = {"enabled": True, "adaptive": None, "disabled": False}
STOP_REASONS: Mapping[FinishReason, str] = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}

# ── questions ────────────────────────────────────────────────────────────────────────────────────


def generation_request(entry: Entry, values: Mapping[str, Any]) -> GenerationRequest:
    choice = values.get("tool_choice", {"type": "auto"})
    choices = {"any": "required", "tool": choice.get("name", "")}
    return GenerationRequest(
        model=entry.id,
        messages=_messages(values),
        sampling=common_fields.sampling_of(values),
        max_tokens=common_fields.max_tokens_of(values.get("max_tokens")),
        stop=tuple(values.get("stop_sequences", ())),
        tools=tuple(common_fields.tool_of(tool, "input_schema") for tool in values.get("tools", ())),
        tool_choice=choices.get(choice["type"], choice["type"]),
        thinking=THINKING[values.get("thinking", {}).get("type", "disabled")],
    )


def _messages(values: Mapping[str, Any]) -> tuple[Message, ...]:
    system = values.get("system", "")
    text = system if isinstance(system, str) else "\n\n".join(block["text"] for block in system)
    messages = [Message("system", text)] if text else []
    for index, value in enumerate(values["messages"]):
        messages += _turn(value["role"], value["content"], f"messages[{index}].content")
    return tuple(messages)


def _turn(role: str, content: str | list[dict[str, Any]], where: str) -> list[Message]:
    """One message of theirs; results of tools stand inside a user's message there, and are messages here."""
    own: Role = "assistant" if role == "assistant" else "system" if role == "system" else "user"
    if isinstance(content, str):
        return [Message(own, content)]
    blocks = {kind: [block for block in content if block["type"] == kind] for kind in BLOCKS}
    parts = (_part(block, f"{where}[{index}]") for index, block in enumerate(content) if block["type"] in PARTS)
    text, images = content_of(parts, "\n\n")
    if role == "system":
        return [Message(own, text)]
    if role == "assistant":
        calls = tuple(ToolCall(block["id"], block["name"], json.dumps(block["input"])) for block in blocks["tool_use"])
        return [Message("assistant", text, "".join(block["thinking"] for block in blocks["thinking"]), calls)]
    results = [
        _result(block, f"{where}[{index}].content")
        for index, block in enumerate(content)
        if block["type"] == "tool_result"
    ]
    return [*results, *([Message("user", text, images=images)] if text or images or not results else [])]


def _part(block: Mapping[str, Any], where: str) -> str | Image:
    if block["type"] == "image":
        return _image(block, where)
    return str(block["text"]) if block["type"] == "text" else document_text(block, where)


def document_text(block: Mapping[str, Any], where: str) -> str:
    """A document as part of the question; raises a FieldError where it is no text."""
    source = block["source"]
    if source["type"] == "text":
        text = source["data"]
    elif source["type"] == "content":
        content = source["content"]
        text = content if isinstance(content, str) else "\n\n".join(part["text"] for part in content)
    else:
        raise FieldError(
            f"{where}.source", f"{where}.source must hold the document as text.", "Extract its text first."
        )
    about = "".join(
        f" {name}={json.dumps(block[name], ensure_ascii=False)}" for name in ("title", "context") if block.get(name)
    )
    return f"<document{about}>\n{text}\n</document>"


def _result(block: Mapping[str, Any], where: str) -> Message:
    content = block.get("content", "")
    parts = [content] if isinstance(content, str) else (_part(one, f"{where}[{n}]") for n, one in enumerate(content))
    text, images = content_of(parts, "\n\n")
    return Message("tool", text, tool_call_id=block["tool_use_id"], images=images)


def _image(block: Mapping[str, Any], where: str) -> Image:
    source = block["source"]
    if source["type"] == "url":
        if isinstance(source["url"], Image):  # it was fetched
            return source["url"]
        raise FieldError(f"{where}.source", f"{where}.source must hold the image in base64.", common_fields.IMAGE_HINT)
    return Image(common_fields.base64_bytes(source["data"], f"{where}.source.data"), source["media_type"])


# ── answers ──────────────────────────────────────────────────────────────────────────────────────


def blocks_of(answer: CompleteAnswer, *, single_call: bool) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    if answer.thoughts:
        blocks.append(thinking_block(answer.reasoning))
    if answer.text or not answer.tool_calls:
        blocks.append(text_block(answer.text))
    calls = answer.tool_calls[:1] if single_call else answer.tool_calls
    return [*blocks, *(tool_block(call, common_fields.arguments_of(call.arguments)) for call in calls)]


def thinking_block(text: str) -> dict[str, Any]:
    return {"type": "thinking", "thinking": text, "signature": ""}


def text_block(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def tool_block(call: ToolCall, arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "tool_use", "id": call.id, "name": call.name, "input": arguments}


def message_value(
    identity: str, model: str, blocks: list[dict[str, Any]], finish: Finish | None = None
) -> dict[str, Any]:
    """A message; without `finish` one that is about to begin."""
    stop = {"stop_reason": None, "stop_sequence": None} if finish is None else stop_value(finish)
    return {
        "id": identity,
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": blocks,
        **stop,
        "usage": usage_value(Usage() if finish is None else finish.usage),
    }


def stop_value(finish: Finish) -> dict[str, Any]:
    if finish.reason == "stop" and finish.stop:
        return {"stop_reason": "stop_sequence", "stop_sequence": finish.stop}
    return {"stop_reason": STOP_REASONS[finish.reason], "stop_sequence": None}


def usage_value(usage: Usage) -> dict[str, Any]:
    """Theirs counts the tokens that came from the cache apart; null is its word for not known."""
    if not usage.counted:
        return {
            "input_tokens": usage.prompt,
            "cache_creation_input_tokens": None,
            "cache_read_input_tokens": None,
            "output_tokens": usage.completion,
            **common_fields.ESTIMATED,
        }
    return {
        "input_tokens": usage.prompt - usage.cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached,
        "output_tokens": usage.completion,
        **(common_fields.ESTIMATED if usage.guessed else {}),
    }
