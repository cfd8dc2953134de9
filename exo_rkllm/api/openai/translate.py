"""From OpenAI's chat and completion bodies to our requests, and from our answers to its values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from exo_rkllm.api import common_fields
from exo_rkllm.api.response_format import ResponseFormat
from exo_rkllm.api.streaming import CompleteAnswer
from exo_rkllm.backends.base import Finish, GenerationRequest, Message, ToolCall, Usage
from exo_rkllm.catalogue.entry import Entry

# ── questions ────────────────────────────────────────────────────────────────────────────────────


def chat_request(entry: Entry, values: Mapping[str, Any], shape: ResponseFormat) -> GenerationRequest:
    messages = [_message(value, f"messages[{index}]") for index, value in enumerate(values["messages"])]
    offered = tuple(common_fields.tool_of(tool["function"]) for tool in values.get("tools", ()))
    tools, choice = common_fields.tools_and_choice(
        offered, values.get("tool_choice", "auto"), lambda tool: str(tool["function"]["name"])
    )
    return GenerationRequest(
        model=entry.id,
        messages=shape.with_instructions(messages),
        sampling=common_fields.sampling_of(values),
        max_tokens=common_fields.max_tokens_of(values.get("max_completion_tokens", values.get("max_tokens"))),
        stop=common_fields.stop_of(values.get("stop")),
        tools=tools,
        tool_choice=choice,
        structure=shape.structure,
        thinking=_thinking(values),
    )


def _thinking(values: Mapping[str, Any]) -> bool | None:
    switch: bool | None = values.get("chat_template_kwargs", {}).get("enable_thinking", values.get("enable_thinking"))
    return common_fields.thinking_of(values.get("reasoning_effort")) if switch is None else switch


def _message(value: Mapping[str, Any], where: str) -> Message:
    role = value["role"]
    text, images = common_fields.content_of(value.get("content", ""), f"{where}.content")
    return Message(
        role="system" if role == "developer" else role,
        content=text,
        reasoning=value.get("reasoning_content", ""),
        tool_calls=tuple(
            ToolCall(call["id"], call["function"]["name"], call["function"].get("arguments", "{}"))
            for call in value.get("tool_calls", ())
        ),
        tool_call_id=value.get("tool_call_id", ""),
        name=value.get("name", ""),
        images=images,
    )


def prompts_of(value: str | list[Any]) -> list[str | tuple[int, ...]]:
    """The prompts of a completion or the texts of embeddings: each a text, or token ids."""
    if isinstance(value, str):
        return [value]
    if isinstance(value[0], int):
        return [tuple(value)]
    return [prompt if isinstance(prompt, str) else tuple(prompt) for prompt in value]


def completion_request(
    entry: Entry, values: Mapping[str, Any], prompt: str | tuple[int, ...], shape: ResponseFormat
) -> GenerationRequest:
    return GenerationRequest(
        model=entry.id,
        prompt=prompt if isinstance(prompt, str) else None,
        tokens=None if isinstance(prompt, str) else prompt,
        sampling=common_fields.sampling_of(values),
        max_tokens=common_fields.max_tokens_of(values.get("max_tokens")),
        stop=common_fields.stop_of(values.get("stop")),
        structure=shape.structure,
    )


# ── answers ──────────────────────────────────────────────────────────────────────────────────────


def chat_choice(answer: CompleteAnswer, shape: ResponseFormat, *, single_call: bool) -> dict[str, Any]:
    calls = answer.tool_calls[:1] if single_call else answer.tool_calls
    text = shape.check(answer.text, calls)
    message: dict[str, Any] = {"role": "assistant", "content": text if text or not calls else None}
    if answer.thoughts:
        message["reasoning_content"] = answer.reasoning
    if calls:
        message["tool_calls"] = [tool_call_value(call) for call in calls]
    return {"index": 0, "message": message, "finish_reason": answer.finish.reason, "logprobs": None}


def tool_call_value(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def chat_usage(finish: Finish, thinking_tokens: int = 0) -> dict[str, Any]:
    return {
        **completion_usage(finish.usage),
        "completion_tokens_details": {"reasoning_tokens": thinking_tokens},
        "timings": common_fields.milliseconds(finish.timings),
    }


def completion_usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.prompt + usage.completion,
        **({"prompt_tokens_details": {"cached_tokens": usage.cached}} if usage.counted else {}),
        **(common_fields.ESTIMATED if usage.guessed else {}),
    }
