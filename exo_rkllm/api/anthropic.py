"""Anthropic's language: messages, their stream of typed blocks, and token counts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from exo_rkllm.api import common_fields
from exo_rkllm.api.answer import quoted, streamed, whole
from exo_rkllm.api.endpoint import Call, Endpoint
from exo_rkllm.api.faults import body_of
from exo_rkllm.backends.base import (
    Capabilities,
    Finish,
    FinishReason,
    GenerationRequest,
    Image,
    Message,
    Piece,
    Sampling,
    ToolCall,
    Usage,
)
from exo_rkllm.catalogue.store import Entry
from exo_rkllm.chat.prompt import render
from exo_rkllm.chat.toolcall import read_tool_call
from exo_rkllm.errors import ExoRkllmError, NotSupported
from exo_rkllm.schema.specs import (
    Anything,
    Either,
    FieldError,
    FieldSpec,
    Free,
    List,
    Number,
    ObjectSpec,
    Switch,
    TaggedSpec,
    Text,
    Whole,
)

# ── tables ───────────────────────────────────────────────────────────────────────────────────────

CACHE = FieldSpec("cache_control", Anything(), "Not needed: a prefix that the NPU still holds is reused by itself.")
TEXT = ObjectSpec("TextBlock", (FieldSpec("text", Text(), "The text.", required=True), CACHE))
IMAGE = ObjectSpec(
    "ImageBlock",
    (
        FieldSpec(
            "source",
            TaggedSpec(
                "type",
                {
                    "base64": ObjectSpec(
                        "Base64Image",
                        (
                            FieldSpec("media_type", Text(most=100), "image/png and the like.", required=True),
                            FieldSpec("data", Text(), "The image.", required=True),
                        ),
                    ),
                    "url": ObjectSpec("ImageAddress", (FieldSpec("url", Text(), "Refused.", required=True),)),
                },
            ),
            "The image itself; none is fetched from outside.",
            required=True,
        ),
        CACHE,
    ),
)
TOOL_USE = ObjectSpec(
    "ToolUseBlock",
    (
        FieldSpec("id", Text(least=1, most=256), "The call's id.", required=True),
        FieldSpec("name", Text(least=1, most=256), "The tool.", required=True),
        FieldSpec("input", Free(), "Its arguments.", required=True),
        CACHE,
    ),
)
TOOL_RESULT = ObjectSpec(
    "ToolResultBlock",
    (
        FieldSpec("tool_use_id", Text(least=1, most=256), "The call that it answers.", required=True),
        FieldSpec(
            "content",
            Either((Text(), List(TaggedSpec("type", {"text": TEXT, "image": IMAGE}), most=1000)), "a string or blocks"),
            "What the tool returned.",
        ),
        FieldSpec("is_error", Switch(), "Whether it failed."),
        CACHE,
    ),
)
THOUGHT = ObjectSpec(
    "ThinkingBlock",
    (FieldSpec("thinking", Text(), "Earlier thoughts.", required=True), FieldSpec("signature", Text(), "Not read.")),
)
BLOCKS = {
    "text": TEXT,
    "image": IMAGE,
    "tool_use": TOOL_USE,
    "tool_result": TOOL_RESULT,
    "thinking": THOUGHT,
    "redacted_thinking": ObjectSpec("RedactedThinkingBlock", (FieldSpec("data", Text(), "Not read."),)),
}
MESSAGE = ObjectSpec(
    "AnthropicMessage",
    (
        FieldSpec("role", Text(("user", "assistant")), "Who speaks.", required=True),
        FieldSpec(
            "content",
            Either((Text(), List(TaggedSpec("type", BLOCKS), most=1000)), "a string or a list of blocks"),
            "What is said.",
            required=True,
        ),
    ),
)
TOOL = ObjectSpec(
    "AnthropicTool",
    (
        FieldSpec("name", Text(least=1, most=256), "What the model calls it.", required=True),
        FieldSpec("description", Text(), "What it does."),
        FieldSpec("input_schema", Free(), "JSON Schema of its arguments.", required=True),
        FieldSpec("type", Text(), "custom.", neutral=("custom",), why="only tools of your own are known here"),
        CACHE,
    ),
)
SINGLE = FieldSpec("disable_parallel_tool_use", Switch(), "At most one call an answer.")
ASKED = (
    common_fields.MODEL,
    FieldSpec("messages", List(MESSAGE, least=1, most=common_fields.MOST_MESSAGES), "The conversation.", required=True),
    FieldSpec(
        "system",
        Either((Text(), List(TaggedSpec("type", {"text": TEXT}), most=1000)), "a string or text blocks"),
        "How to answer.",
    ),
    FieldSpec("tools", List(TOOL, most=common_fields.MOST_TOOLS), "Tools that the model may call."),
    FieldSpec(
        "tool_choice",
        TaggedSpec(
            "type",
            {
                "auto": ObjectSpec("AutoChoice", (SINGLE,)),
                "any": ObjectSpec("AnyChoice", (SINGLE,)),
                "none": ObjectSpec("NoChoice", ()),
                "tool": ObjectSpec(
                    "ToolChoice", (FieldSpec("name", Text(least=1, most=256), "The tool.", required=True), SINGLE)
                ),
            },
        ),
        "Whether to call.",
    ),
    FieldSpec(
        "thinking",
        TaggedSpec(
            "type",
            {
                "enabled": ObjectSpec(
                    "ThinkingOn", (FieldSpec("budget_tokens", Whole(0), "Not read: models know no budget."),)
                ),
                "adaptive": ObjectSpec("ThinkingAdaptive", ()),
                "disabled": ObjectSpec("ThinkingOff", ()),
            },
        ),
        "Thoughts before the answer; off where nothing is said.",
    ),
)
MESSAGES = ObjectSpec(
    "MessagesRequest",
    (
        *ASKED,
        FieldSpec(
            "max_tokens", Whole(1, common_fields.LONGEST_ANSWER), "Longest answer, thoughts included.", required=True
        ),
        FieldSpec(
            "stop_sequences", List(Text(least=1, most=1000), most=64), "The answer ends before the first of these."
        ),
        FieldSpec("stream", Switch(), "Send the answer as it comes."),
        FieldSpec("temperature", Number(0, 1), "0 picks the likeliest token."),
        common_fields.TOP_P,
        common_fields.TOP_K,
        FieldSpec("metadata", Free(), "Yours; it is not read."),
        FieldSpec("service_tier", Text(most=100), "Not read: there is one."),
    ),
)
COUNT = ObjectSpec("CountTokensRequest", ASKED)
THINKING: Mapping[str, bool | None] = {"enabled": True, "adaptive": None, "disabled": False}
STOPS: Mapping[FinishReason, str] = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}


# ── asking ───────────────────────────────────────────────────────────────────────────────────────


def request_of(entry: Entry, values: Mapping[str, Any]) -> GenerationRequest:
    choice = values.get("tool_choice", {"type": "auto"})
    named = {"any": "required", "tool": choice.get("name", "")}
    if values["messages"][-1]["role"] == "assistant":
        raise FieldError(
            "messages",
            "The last message is the assistant's, and an answer that is begun already can't be continued here.",
            "End with a user's message.",
        )
    return GenerationRequest(
        model=entry.id,
        messages=messages_of(values),
        sampling=Sampling(temperature=values.get("temperature"), top_p=values.get("top_p"), top_k=values.get("top_k")),
        max_tokens=values.get("max_tokens"),
        stop=tuple(values.get("stop_sequences", ())),
        tools=tuple(common_fields.tool_of(tool, "input_schema") for tool in values.get("tools", ())),
        tool_choice=named.get(choice["type"], choice["type"]),
        thinking=THINKING[values.get("thinking", {}).get("type", "disabled")],
    )


def messages_of(values: Mapping[str, Any]) -> tuple[Message, ...]:
    system = values.get("system", "")
    said = system if isinstance(system, str) else "\n\n".join(block["text"] for block in system)
    messages = [Message("system", said)] if said else []
    for index, value in enumerate(values["messages"]):
        messages += spoken(value["role"], value["content"], f"messages[{index}].content")
    return tuple(messages)


def spoken(role: str, content: str | list[dict[str, Any]], where: str) -> list[Message]:
    """One message of theirs; results of tools stand inside a user's message there, and are messages here."""
    if isinstance(content, str):
        return [Message("assistant" if role == "assistant" else "user", content)]
    of = {kind: [block for block in content if block["type"] == kind] for kind in BLOCKS}
    text = "\n\n".join(block["text"] for block in of["text"])
    if role == "assistant":
        calls = tuple(ToolCall(block["id"], block["name"], json.dumps(block["input"])) for block in of["tool_use"])
        return [Message("assistant", text, "".join(block["thinking"] for block in of["thinking"]), calls)]
    results = [
        Message("tool", result_text(block.get("content", "")), tool_call_id=block["tool_use_id"])
        for block in of["tool_result"]
    ]
    images = tuple(image_of(block, where) for block in of["image"])
    return [*results, *([Message("user", text, images=images)] if text or images or not results else [])]


def result_text(content: str | list[dict[str, Any]]) -> str:
    if isinstance(content, str):
        return content
    if any(block["type"] == "image" for block in content):
        raise NotSupported("An image as a tool's result is not supported here.", "Send it in the user's message.")
    return "\n\n".join(block["text"] for block in content)


def image_of(block: Mapping[str, Any], where: str) -> Image:
    if block["source"]["type"] == "url":
        raise FieldError(f"{where}.source", f"{where}.source must hold the image in base64.", common_fields.NOT_FETCHED)
    return Image(common_fields.decoded(block["source"]["data"], f"{where}.source.data"), block["source"]["media_type"])


# ── answering ────────────────────────────────────────────────────────────────────────────────────


async def messages(call: Call) -> web.StreamResponse:
    values = call.values
    entry = common_fields.entry_of(call, values["model"])
    request = request_of(entry, values)
    single = bool(values.get("tool_choice", {}).get("disable_parallel_tool_use"))
    identity = f"msg_{request.id}"
    if values.get("stream"):
        return await streamed(call, [request], MessageScribe(identity, entry.id, call.id, single=single))
    answer = await whole(call, request)
    blocks: list[dict[str, Any]] = []
    if answer.reasoning:
        blocks.append({"type": "thinking", "thinking": answer.thoughts, "signature": ""})
    if answer.content or not answer.calls:
        blocks.append({"type": "text", "text": answer.content})
    for made in answer.calls[:1] if single else answer.calls:
        arguments = common_fields.arguments_of(made.arguments)
        blocks.append({"type": "tool_use", "id": made.id, "name": made.name, "input": arguments})
    return web.json_response(
        {
            **message_value(identity, entry.id, blocks),
            **ended(answer.finish),
            "usage": usage_value(answer.finish.usage),
        }
    )


def ended(finish: Finish) -> dict[str, Any]:
    if finish.reason == "stop" and finish.stop:
        return {"stop_reason": "stop_sequence", "stop_sequence": finish.stop}
    return {"stop_reason": STOPS[finish.reason], "stop_sequence": None}


def message_value(identity: str, model: str, blocks: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": identity,
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": blocks,
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage_value(Usage()),
    }


def usage_value(usage: Usage) -> dict[str, Any]:
    """Theirs counts the tokens that came from the cache apart; null is its word for not known."""
    if not usage.counted:
        return {
            "input_tokens": usage.prompt,
            "cache_creation_input_tokens": None,
            "cache_read_input_tokens": None,
            "output_tokens": usage.completion,
            **common_fields.GUESSED,
        }
    return {
        "input_tokens": usage.prompt - usage.cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached,
        "output_tokens": usage.completion,
        **(common_fields.GUESSED if usage.guessed else {}),
    }


def event(kind: str, **values: Any) -> str:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **values}, separators=(',', ':'))}\n\n"


class MessageScribe:
    """A block for each stretch of one kind, opened and closed around its deltas."""

    def __init__(self, identity: str, model: str, request_id: str, *, single: bool) -> None:
        self._opening = event("message_start", message=message_value(identity, model, []))
        self._request_id = request_id
        self._single = single
        self._index = -1
        self._kind = ""
        self._calls = 0
        self._delta = ""

    def piece(self, piece: Piece) -> str:
        if piece.kind == self._kind:
            return f"{self._delta}{quoted(piece.text)}}}}}\n\n"
        if piece.kind == "tool_call":
            return self._call(piece)
        opened = self._open(piece.kind)
        return f"{opened}{self._delta}{quoted(piece.text)}}}}}\n\n"

    def _open(self, kind: str) -> str:
        """The end of the block before, and the beginning of the next."""
        closed = self._close()
        thinking = kind == "thinking"
        block = {"type": "thinking", "thinking": "", "signature": ""} if thinking else {"type": "text", "text": ""}
        self._index += 1
        self._kind = kind
        delta = '"thinking_delta","thinking":' if thinking else '"text_delta","text":'
        self._delta = (
            "event: content_block_delta\n"
            f'data: {{"type":"content_block_delta","index":{self._index},"delta":{{"type":{delta}'
        )
        return closed + event("content_block_start", index=self._index, content_block=block)

    def _close(self) -> str:
        opening, self._opening = self._opening, ""
        closed = event("content_block_stop", index=self._index) if self._kind else ""
        self._kind = ""
        return opening + closed

    def _call(self, piece: Piece) -> str:
        if self._single and self._calls:
            return ""
        made = read_tool_call(piece)
        closed = self._close()
        self._index += 1
        self._calls += 1
        block = {"type": "tool_use", "id": made.id, "name": made.name, "input": {}}
        delta = {"type": "input_json_delta", "partial_json": json.dumps(common_fields.arguments_of(made.arguments))}
        return (
            closed
            + event("content_block_start", index=self._index, content_block=block)
            + event("content_block_delta", index=self._index, delta=delta)
            + event("content_block_stop", index=self._index)
        )

    def finish(self, finish: Finish) -> str:
        begun = "" if self._index >= 0 else self._open("answer")
        closed = self._close()
        delta = ended(finish)
        return (
            begun
            + closed
            + event("message_delta", delta=delta, usage=usage_value(finish.usage))
            + event("message_stop")
        )

    def failure(self, error: ExoRkllmError) -> str:
        return f"event: error\ndata: {body_of(error, 'anthropic', self._request_id)}\n\n"


async def count_tokens(call: Call) -> web.StreamResponse:
    entry = common_fields.entry_of(call, call.values["model"])
    tokenizer = entry.tokenizer()
    if tokenizer is None:
        raise NotSupported(
            f"Tokens of {entry.id} can't be counted without running it: its entry has no tokenizer.json, or the "
            "tokenizers package is not installed.",
            "pip install tokenizers, or read usage in an answer.",
        )
    rendered = render(request_of(entry, call.values), entry, Capabilities()).request
    return web.json_response({"input_tokens": len(tokenizer.encode(rendered.prompt or ""))})


ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(
        "POST",
        "/v1/messages",
        messages,
        "Answer a conversation.",
        "anthropic",
        body=MESSAGES,
        streams="text/event-stream",
    ),
    Endpoint(
        "POST", "/v1/messages/count_tokens", count_tokens, "Count a conversation's tokens.", "anthropic", body=COUNT
    ),
)
