"""A request in the words of the chat API that llama.cpp's server, vLLM and others share."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeAlias

from exo_rkllm.backends.base import GenerationRequest, Image, Message, Sampling, StructureKind, Tool, ToolCall
from exo_rkllm.errors import NotSupported

CHOICES = frozenset({"none", "auto", "required"})
# The fields by which a server is asked for a form, from the text of a `Structure`.
FormFields: TypeAlias = Mapping[StructureKind, Callable[[str], dict[str, Any]]]
LLAMA_FORMS: FormFields = {
    "json": lambda _text: {"json_schema": {"type": "object"}},
    "schema": lambda text: {"json_schema": json.loads(text)},
    "choice": lambda text: {"grammar": f"root ::= {' | '.join(map(json.dumps, json.loads(text)))}"},
    "gbnf": lambda text: {"grammar": text},
}
# vLLM's own fields are `structured_outputs`, and were `guided_...` before 0.12; both versions leave the others' aside.
VLLM_FORMS: FormFields = {
    "json": lambda _text: {"response_format": {"type": "json_object"}},
    "schema": lambda text: {
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "strict": True, "schema": json.loads(text)},
        }
    },
    "regex": lambda text: {"structured_outputs": {"regex": text}, "guided_regex": text},
    "choice": lambda text: {"structured_outputs": {"choice": json.loads(text)}, "guided_choice": json.loads(text)},
    "gbnf": lambda text: {"structured_outputs": {"grammar": text}, "guided_grammar": text},
}


def body(
    request: GenerationRequest,
    model: str,
    defaults: Sampling,
    takes: Collection[str],
    engine: str,
    language: str = "",
    forms: FormFields = LLAMA_FORMS,
) -> tuple[str, dict[str, Any]]:
    """The path to post to, and what. `takes` are the server's sampling settings, which it names as `language` does."""
    if request.output != "text":
        raise NotSupported(f"{engine} gives text only, no {request.output}.", "Use a model with engine = 'rkllm'.")
    fields: dict[str, Any] = {"model": model, "stream": True, "stream_options": {"include_usage": True}}
    sampling, lost = request.sampling.over(defaults).for_engine(takes, language)
    if lost:
        raise NotSupported(f"{engine} takes no {lost[0]}.", f"It takes: {', '.join(sorted(takes))}.")
    fields |= sampling
    if request.max_tokens is not None:
        fields["max_tokens"] = request.max_tokens
    if request.stop:
        fields["stop"] = list(request.stop)
    if request.logprobs is not None:
        fields |= {"logprobs": True, "top_logprobs": request.logprobs}
    if (structure := request.structure) is not None:
        if structure.kind not in forms:
            raise NotSupported(
                f"{engine} holds no answer to a {structure.kind}.", f"It takes: {', '.join(sorted(forms))}."
            )
        fields |= forms[structure.kind](structure.text)
    if request.prompt is not None or request.tokens is not None:
        return "/completions", {**fields, "prompt": request.prompt if request.tokens is None else list(request.tokens)}
    fields["messages"] = [message(item) for item in request.messages]
    if len(request.messages) > 1 and request.messages[-1].role == "assistant" and not request.messages[-1].tool_calls:
        # The answer is begun already. llama.cpp goes on by itself, vLLM has to be told.
        fields |= {"add_generation_prompt": False, "continue_final_message": True}
    if request.tools:
        fields["tools"] = [tool(item) for item in request.tools]
        fields["tool_choice"] = choice(request.tool_choice)
    if request.thinking is not None:
        fields["chat_template_kwargs"] = {"enable_thinking": request.thinking}
    return "/chat/completions", fields


def data_url(image: Image) -> str:
    return f"data:{image.media_type};base64,{base64.b64encode(image.data).decode()}"


def message(item: Message) -> dict[str, Any]:
    content: Any = item.content
    if item.images:
        content = [
            {"type": "text", "text": part}
            if isinstance(part, str)
            else {"type": "image_url", "image_url": {"url": data_url(part)}}
            for part in item.parts()
        ]
    value: dict[str, Any] = {"role": item.role, "content": content}
    if item.reasoning:
        value["reasoning_content"] = item.reasoning
    if item.tool_calls:
        value["tool_calls"] = [call_value(call) for call in item.tool_calls]
    if item.tool_call_id:
        value["tool_call_id"] = item.tool_call_id
    if item.name:
        value["name"] = item.name
    return value


def call_value(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def tool(item: Tool) -> dict[str, Any]:
    function = {"name": item.name, "description": item.description, "parameters": item.parameters}
    return {"type": "function", "function": function}


def choice(name: str) -> Any:
    return name if name in CHOICES else {"type": "function", "function": {"name": name}}
