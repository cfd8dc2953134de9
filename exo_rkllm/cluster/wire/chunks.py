"""An engine's pieces and finish as exo's chunks."""

from __future__ import annotations

import json
import uuid
from typing import Any

from exo_rkllm.backends.base import Finish
from exo_rkllm.cluster.wire import clean
from exo_rkllm.cluster.wire.messages import (
    Chunk,
    CompletionTokensDetails,
    ErrorChunk,
    GenerationStats,
    Memory,
    PromptTokensDetails,
    TokenChunk,
    ToolCallChunk,
    ToolCallItem,
    Usage,
)


def usage(finish: Finish, thinking: int) -> Usage:
    counted = finish.usage
    prompt, completion = clean.whole(counted.prompt), clean.whole(counted.completion)
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=prompt + completion,
        prompt_tokens_details=PromptTokensDetails(clean.whole(counted.cached)),
        completion_tokens_details=CompletionTokensDetails(min(thinking, completion)),
    )


def stats(finish: Finish, memory: int) -> GenerationStats:
    counted, times = finish.usage, finish.timings
    fresh = max(0, counted.prompt - counted.cached)
    return GenerationStats(
        prompt_tps=clean.rate(fresh, times.prefill),
        generation_tps=clean.rate(max(0, counted.completion - 1), times.decode),  # the first one came with the prefill
        prompt_tokens=clean.whole(counted.prompt),
        generation_tokens=clean.whole(counted.completion),
        peak_memory_usage=Memory(clean.whole(memory)),
        # one token is always computed anew, so a whole prompt found in the cache leaves one
        prefix_cache_hit="none" if counted.cached == 0 else "exact" if fresh <= 1 else "partial",
    )


def tool_calls(text: str) -> tuple[ToolCallItem, ...]:
    """Calls out of the text of `tool_call` pieces: one JSON object after another, or lists of them."""
    found: list[ToolCallItem] = []
    decoder = json.JSONDecoder()
    position = 0
    while position < len(text):
        if text[position] in " \t\r\n,;":
            position += 1
            continue
        try:
            value, position = decoder.raw_decode(text, position)
        except ValueError:
            return ()
        found += [_call(entry) for entry in (value if isinstance(value, list) else [value])]
    return tuple(found) if all(call.name for call in found) else ()


def _call(value: Any) -> ToolCallItem:
    body: dict[str, Any] = value if isinstance(value, dict) else {}
    function = body.get("function")
    if isinstance(function, dict):
        body = {**body, **function}
    arguments = body.get("arguments", body.get("parameters", {}))
    return ToolCallItem(
        id=clean.text(str(body.get("id") or uuid.uuid4())),
        name=clean.text(str(body.get("name") or "")),
        arguments=clean.text(arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)),
    )


def last(model: str, finish: Finish, *, calls: str, thinking: int, memory: int) -> Chunk:
    """The chunk that ends a request."""
    if finish.reason == "abort":
        return ErrorChunk(model, "The board stopped this answer before its end.")
    counted, figures = usage(finish, thinking), stats(finish, memory)
    if calls:
        items = tool_calls(calls)
        if not items:
            return TokenChunk(model, clean.text(calls), -1, counted, "stop", figures)
        return ToolCallChunk(model, items, counted, stats=figures)
    return TokenChunk(model, "", -1, counted, "length" if finish.reason == "length" else "stop", figures)
