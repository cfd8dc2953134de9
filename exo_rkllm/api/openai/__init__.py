"""OpenAI's language: models, chat completions, completions, embeddings. Responses have a package of their own."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import web

from exo_rkllm.api.common_fields import modified_seconds, total
from exo_rkllm.api.context import Call, Endpoint
from exo_rkllm.api.embedding import embed
from exo_rkllm.api.encoding import SSE, json_response
from exo_rkllm.api.openai import translate
from exo_rkllm.api.openai.stream import ChatEncoder, CompletionEncoder
from exo_rkllm.api.openai.tables import CHAT, COMPLETION, EMBEDDING
from exo_rkllm.api.response_format import response_format_of
from exo_rkllm.api.streaming import complete_answer, stream_answers
from exo_rkllm.catalogue.store import Entry
from exo_rkllm.schema.specs import FieldError

# A model as GET /v1/models has it. What is not known is left out.
MODEL_FIELDS: Mapping[str, Callable[[Entry], Any]] = {
    "id": lambda entry: entry.id,
    "object": lambda entry: "model",
    "created": lambda entry: int(modified_seconds(entry)),
    "owned_by": lambda entry: entry.card.base_model.partition("/")[0] or "exo-rkllm",
    "context": lambda entry: entry.card.context or None,
    "quantization": lambda entry: entry.card.quantization or None,
    "platform": lambda entry: entry.card.platform or None,
}


async def chat(call: Call) -> web.StreamResponse:
    values = call.values
    entry = call.entry(values["model"])
    shape = response_format_of(values.get("response_format"))
    request = translate.chat_request(entry, values, shape)
    single_call = values.get("parallel_tool_calls") is False
    identity = f"chatcmpl-{request.id}"
    if values.get("stream"):
        encoder = ChatEncoder(identity, entry.id, call.id, shape, usage=_streams_usage(values), single_call=single_call)
        return await stream_answers(call, [request], encoder)
    answer = await complete_answer(call, request)
    return json_response(
        {
            "id": identity,
            "object": "chat.completion",
            "created": int(time.time()),
            "model": entry.id,
            "choices": [translate.chat_choice(answer, shape, single_call=single_call)],
            "usage": translate.chat_usage(answer.finish, answer.thinking_tokens),
        }
    )


async def completions(call: Call) -> web.StreamResponse:
    values = call.values
    entry = call.entry(values["model"])
    prompts = translate.prompts_of(values["prompt"])
    echo = bool(values.get("echo"))
    if echo and not all(isinstance(prompt, str) for prompt in prompts):
        raise FieldError("echo", "echo wants a prompt that is text.", "Send the prompt as a string.")
    requests = [translate.completion_request(entry, values, prompt) for prompt in prompts]
    identity = f"cmpl-{secrets.token_hex(16)}"
    echoes = [str(prompt) if echo else "" for prompt in prompts]
    if values.get("stream"):
        encoder = CompletionEncoder(identity, entry.id, call.id, echoes, usage=_streams_usage(values))
        return await stream_answers(call, requests, encoder)
    answers = [await complete_answer(call, request) for request in requests]
    return json_response(
        {
            "id": identity,
            "object": "text_completion",
            "created": int(time.time()),
            "model": entry.id,
            "choices": [
                {"index": index, "text": echo + answer.text, "finish_reason": answer.finish.reason, "logprobs": None}
                for index, (answer, echo) in enumerate(zip(answers, echoes, strict=True))
            ],
            "usage": translate.completion_usage(total(answer.finish.usage for answer in answers)),
        }
    )


def _streams_usage(values: Mapping[str, Any]) -> bool:
    return bool(values.get("stream_options", {}).get("include_usage", False))


async def embeddings(call: Call) -> web.StreamResponse:
    values = call.values
    entry = call.entry(values["model"])
    vectors = await embed(call, entry, translate.prompts_of(values["input"]), values.get("dimensions"))
    numbers = vectors.base64() if values.get("encoding_format") == "base64" else vectors.lists()
    return json_response(
        {
            "object": "list",
            "data": [
                {"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(numbers)
            ],
            "model": entry.id,
            "usage": {"prompt_tokens": vectors.tokens, "total_tokens": vectors.tokens},
        }
    )


def model_value(entry: Entry) -> dict[str, Any]:
    return {name: value for name, read in MODEL_FIELDS.items() if (value := read(entry)) is not None}


async def models(call: Call) -> web.StreamResponse:
    return json_response({"object": "list", "data": [model_value(entry) for entry in call.context.catalogue.list()]})


async def model(call: Call) -> web.StreamResponse:
    return json_response(model_value(call.entry()))


ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint("GET", "/v1/models", models, "Lists the models of the catalogue."),
    Endpoint("GET", "/v1/models/{model:.+}", model, "Describes one model."),
    Endpoint("POST", "/v1/chat/completions", chat, "Answers a conversation.", body=CHAT, stream_type=SSE),
    Endpoint("POST", "/v1/completions", completions, "Continues a text.", body=COMPLETION, stream_type=SSE),
    Endpoint("POST", "/v1/embeddings", embeddings, "Embeds texts as vectors of length one.", body=EMBEDDING),
)
