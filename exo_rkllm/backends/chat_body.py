"""A request in the words of the chat API that llama.cpp's server, vLLM and others share."""

from __future__ import annotations

import base64
from collections.abc import Collection
from typing import Any

from exo_rkllm.backends.base import GenerationRequest, Message, Sampling, Tool, ToolCall
from exo_rkllm.errors import NotSupported

CHOICES = frozenset({"none", "auto", "required"})


def body(
    request: GenerationRequest, model: str, defaults: Sampling, takes: Collection[str], engine: str, language: str = ""
) -> tuple[str, dict[str, Any]]:
    """The path to post to, and what. `takes` are the server's sampling settings, which it names as `language` does."""
    if request.output != "text":
        raise NotSupported(f"{engine} gives text only, no {request.output}.", "Use a model with engine = 'rkllm'.")
    asked: dict[str, Any] = {"model": model, "stream": True, "stream_options": {"include_usage": True}}
    sampling, lost = request.sampling.over(defaults).for_engine(takes, language)
    if lost:
        raise NotSupported(f"{engine} takes no {lost[0]}.", f"It takes: {', '.join(sorted(takes))}.")
    asked |= sampling
    if request.max_tokens is not None:
        asked["max_tokens"] = request.max_tokens
    if request.stop:
        asked["stop"] = list(request.stop)
    if request.prompt is not None or request.tokens is not None:
        return "/completions", {**asked, "prompt": request.prompt if request.tokens is None else list(request.tokens)}
    asked["messages"] = [message(one) for one in request.messages]
    if request.tools:
        asked["tools"] = [tool(one) for one in request.tools]
        asked["tool_choice"] = choice(request.tool_choice)
    if request.thinking is not None:
        asked["chat_template_kwargs"] = {"enable_thinking": request.thinking}
    return "/chat/completions", asked


def message(one: Message) -> dict[str, Any]:
    content: Any = one.content
    if one.images:
        pictures = [
            {
                "type": "image_url",
                "image_url": {"url": f"data:{image.media_type};base64,{base64.b64encode(image.data).decode()}"},
            }
            for image in one.images
        ]
        content = [{"type": "text", "text": one.content}, *pictures]
    value: dict[str, Any] = {"role": one.role, "content": content}
    if one.reasoning:
        value["reasoning_content"] = one.reasoning
    if one.tool_calls:
        value["tool_calls"] = [called(call) for call in one.tool_calls]
    if one.tool_call_id:
        value["tool_call_id"] = one.tool_call_id
    if one.name:
        value["name"] = one.name
    return value


def called(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def tool(one: Tool) -> dict[str, Any]:
    function = {"name": one.name, "description": one.description, "parameters": one.parameters}
    return {"type": "function", "function": function}


def choice(wanted: str) -> Any:
    return wanted if wanted in CHOICES else {"type": "function", "function": {"name": wanted}}
