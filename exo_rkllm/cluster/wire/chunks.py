"""An engine's pieces and finish as exo's chunks."""

from __future__ import annotations

import json
import uuid
from typing import Any, Literal

from exo_rkllm.backends.base import Finish
from exo_rkllm.cluster.wire import clean
from exo_rkllm.cluster.wire.events import Raw, Tagged


def token(
    model: str,
    text: str,
    token_id: int,
    *,
    thinking: bool = False,
    finish_reason: Literal["stop", "length"] | None = None,
    usage: Raw | None = None,
    stats: Raw | None = None,
) -> Tagged:
    """`text` may hold several tokens; the first chunk with a `finish_reason` ends the request."""
    fields = {"model": model, "text": clean.text(text), "token_id": token_id, "is_thinking": thinking}
    return {"TokenChunk": {**fields, "finish_reason": finish_reason, "usage": usage, "stats": stats}}


def prefill_progress(model: str, done: int, total: int) -> Tagged:
    return {"PrefillProgressChunk": {"model": model, "processed_tokens": done, "total_tokens": total}}


def error(model: str, problem: str) -> Tagged:
    return {"ErrorChunk": {"model": model, "error_message": clean.text(problem)}}


def notice(model: str, text: str, *, broke_off: bool = False) -> Tagged:
    """A failure as the end of an answer, for clients that are shown nothing of an `ErrorChunk`."""
    return token(model, text, -1, finish_reason="length" if broke_off else "stop")


def image_error(model: str, problem: str) -> Tagged:
    """The end of an image request: the API of an exo node ends itself over any other chunk for one."""
    numbers = {"chunk_index": 0, "total_chunks": 1, "image_index": 0}
    message = clean.text(problem)
    return {"ImageChunk": {"model": model, "data": "", **numbers, "finish_reason": "error", "error_message": message}}


def usage(finish: Finish, thinking: int) -> Raw:
    counts = finish.usage
    prompt, completion = clean.whole(counts.prompt), clean.whole(counts.completion)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": clean.whole(counts.cached)},
        "completion_tokens_details": {"reasoning_tokens": min(thinking, completion)},
    }


def stats(finish: Finish, memory: int) -> Raw:
    counts, times = finish.usage, finish.timings
    fresh = max(0, counts.prompt - counts.cached)
    return {
        "prompt_tps": clean.rate(fresh, times.prefill),
        "generation_tps": clean.rate(max(0, counts.completion - 1), times.decode),  # the first came with the prefill
        "prompt_tokens": clean.whole(counts.prompt),
        "generation_tokens": clean.whole(counts.completion),
        "peak_memory_usage": {"in_bytes": clean.whole(memory)},
        # one token is always computed anew, so a whole prompt found in the cache leaves one
        "prefix_cache_hit": "none" if counts.cached == 0 else "exact" if fresh <= 1 else "partial",
    }


def tool_calls(text: str) -> list[Raw]:
    """Calls out of the text of `tool_call` pieces: one JSON object after another, or lists of them.

    Empty if the text is anything else, or if a call has no name.
    """
    calls: list[Raw] = []
    decoder = json.JSONDecoder()
    position = 0
    while position < len(text):
        if text[position] in " \t\r\n,;":
            position += 1
            continue
        try:
            value, position = decoder.raw_decode(text, position)
        except ValueError:
            return []
        calls += [_call(entry) for entry in (value if isinstance(value, list) else [value])]
    return calls if all(call["name"] for call in calls) else []


def _call(value: Any) -> Raw:
    body: dict[str, Any] = value if isinstance(value, dict) else {}
    function = body.get("function")
    if isinstance(function, dict):
        body = {**body, **function}
    arguments = body.get("arguments", body.get("parameters", {}))
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return {
        "id": clean.text(str(body.get("id") or uuid.uuid4())),
        "name": clean.text(str(body.get("name") or "")),
        "arguments": clean.text(text),
    }


def last(model: str, finish: Finish, *, calls: str, thinking: int, memory: int) -> Tagged:
    """The chunk that ends a request."""
    if finish.reason == "abort":
        return error(model, "The board stopped this answer before its end.")
    counts, figures = usage(finish, thinking), stats(finish, memory)
    items = tool_calls(calls)
    if items:
        return {"ToolCallChunk": {"model": model, "tool_calls": items, "usage": counts, "stats": figures}}
    reason: Literal["stop", "length"] = "length" if finish.reason == "length" and not calls else "stop"
    return token(model, calls, -1, finish_reason=reason, usage=counts, stats=figures)
