"""Anthropic's language: messages, their stream of typed blocks, and token counts."""

from __future__ import annotations

from aiohttp import web

from exo_rkllm.api.anthropic.stream import MessageEncoder
from exo_rkllm.api.anthropic.tables import COUNT, MESSAGES
from exo_rkllm.api.anthropic.translate import blocks_of, generation_request, message_value
from exo_rkllm.api.context import Call, Endpoint
from exo_rkllm.api.encoding import SSE, json_response
from exo_rkllm.api.streaming import complete_answer, stream_answers
from exo_rkllm.api.tokens import count_tokens as count


async def messages(call: Call) -> web.StreamResponse:
    values = call.values
    entry = call.entry(values["model"])
    request = await call.compute(generation_request, entry, values)
    single_call = bool(values.get("tool_choice", {}).get("disable_parallel_tool_use"))
    identity = f"msg_{request.id}"
    if values.get("stream"):
        encoder = MessageEncoder(identity, entry.id, call.id, single_call=single_call)
        return await stream_answers(call, [request], encoder)
    answer = await complete_answer(call, request)
    blocks = blocks_of(answer, single_call=single_call)
    return json_response(message_value(identity, entry.id, blocks, answer.finish))


async def count_tokens(call: Call) -> web.StreamResponse:
    entry = call.entry(call.values["model"])
    request = await call.compute(generation_request, entry, call.values)
    counted = await count(call, entry, request)
    return json_response({"input_tokens": counted.tokens, **counted.note})


ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint("POST", "/v1/messages", messages, "Answers a conversation.", "anthropic", body=MESSAGES, stream_type=SSE),
    Endpoint(
        "POST",
        "/v1/messages/count_tokens",
        count_tokens,
        "Counts the tokens of a conversation; without the model's tokenizer, estimates them.",
        "anthropic",
        body=COUNT,
    ),
)
