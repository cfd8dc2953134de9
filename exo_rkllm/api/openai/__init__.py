"""OpenAI's language: models, chat completions, completions, embeddings. Responses have a package of their own."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import web

from exo_rkllm.api.anthropic.models import HEADER as ANTHROPIC
from exo_rkllm.api.anthropic.models import anthropic_list, anthropic_value
from exo_rkllm.api.common_fields import modified_seconds, total
from exo_rkllm.api.context import Call, Endpoint
from exo_rkllm.api.embedding import embed
from exo_rkllm.api.encoding import SSE, json_response
from exo_rkllm.api.leniency import note_ignored
from exo_rkllm.api.openai import translate
from exo_rkllm.api.openai.logprobs import (
    chat_logprobs,
    completion_logprobs,
    ignore_logprobs,
    top_logprobs,
    with_logprobs,
)
from exo_rkllm.api.openai.stream import ChatEncoder, CompletionEncoder
from exo_rkllm.api.openai.tables import CHAT, COMPLETION, EMBEDDING
from exo_rkllm.api.response_format import asked_format
from exo_rkllm.api.streaming import CompleteAnswer, complete_answer, stream_answers
from exo_rkllm.backends.base import Ignored
from exo_rkllm.catalogue.entry import Entry
from exo_rkllm.errors import NotSupported
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
    "vision": lambda entry: True if entry.vision else None,
}


async def chat(call: Call) -> web.StreamResponse:
    values = call.values
    entry = call.entry(values["model"])
    shape = await call.compute(asked_format, values)
    request = await call.compute(translate.chat_request, entry, values, shape)
    single_call = values.get("parallel_tool_calls") is False
    identity = f"chatcmpl-{request.id}"
    top = top_logprobs(values)
    if values.get("stream"):
        if top is not None:
            ignore_logprobs(call, entry.id, "has no effect in a stream")
        encoder = ChatEncoder(identity, entry.id, call.id, shape, usage=_streams_usage(values), single_call=single_call)
        return await stream_answers(call, [request], encoder)
    answer = await complete_answer(call, with_logprobs(call, entry, request, top))
    choice = translate.chat_choice(answer, shape, single_call=single_call)
    if top is not None and (tokens := await chat_logprobs(call, entry, request, answer, top)) is not None:
        choice["logprobs"] = {"content": tokens, "refusal": None}
    return json_response(
        {
            "id": identity,
            "object": "chat.completion",
            "created": int(time.time()),
            "model": entry.id,
            "choices": [choice],
            "usage": translate.chat_usage(answer.finish, answer.thinking_tokens),
        }
    )


async def completions(call: Call) -> web.StreamResponse:
    values = call.values
    entry = call.entry(values["model"])
    prompts = translate.prompts_of(values["prompt"])
    echo = bool(values.get("echo"))
    top = values.get("logprobs")
    if echo and top is None and not all(isinstance(prompt, str) for prompt in prompts):
        raise FieldError("echo", "echo wants a prompt that is text.", "Send the prompt as a string.")
    shapes = [await call.compute(asked_format, values) for _ in prompts]
    requests = [
        translate.completion_request(entry, values, prompt, shape)
        for prompt, shape in zip(prompts, shapes, strict=True)
    ]
    identity = f"cmpl-{secrets.token_hex(16)}"
    echoes = [prompt if echo and isinstance(prompt, str) else "" for prompt in prompts]
    if values.get("stream"):
        if top is not None:
            ignore_logprobs(call, entry.id, "has no effect in a stream")
        encoder = CompletionEncoder(identity, entry.id, call.id, echoes, shapes, usage=_streams_usage(values))
        return await stream_answers(call, requests, encoder)
    if values.get("max_tokens") == 0:
        answers = [CompleteAnswer() for _ in requests]  # nothing but scores
    else:
        answers = [await complete_answer(call, request) for request in requests]
    texts = [shape.check(answer.text, ()) for shape, answer in zip(shapes, answers, strict=True)]
    logprobs = [
        None if top is None else await _logprobs(call, entry, prompt, answer)
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    return json_response(
        {
            "id": identity,
            "object": "text_completion",
            "created": int(time.time()),
            "model": entry.id,
            "choices": [
                {"index": index, "text": echo + text, "finish_reason": answer.finish.reason, "logprobs": scores}
                for index, (answer, text, echo, scores) in enumerate(zip(answers, texts, echoes, logprobs, strict=True))
            ],
            "usage": translate.completion_usage(total(answer.finish.usage for answer in answers)),
        }
    )


async def _logprobs(
    call: Call, entry: Entry, prompt: str | tuple[int, ...], answer: CompleteAnswer
) -> dict[str, Any] | None:
    """Scores of one completion. Without echo they are an addition to an answer that is there already: where the model
    has none, they are left out and named."""
    echo, top = bool(call.values.get("echo")), call.values["logprobs"]
    try:
        if len(answer.tokens) != answer.finish.usage.completion or min(answer.tokens, default=0) < 0:
            raise NotSupported("the tokens of this answer are not known")  # noqa: TRY301 - as those of the engine
        return await completion_logprobs(call, entry, prompt, answer.tokens, echo=echo, top=top)
    except NotSupported as error:
        if echo:
            raise
        note_ignored(call, entry.id, Ignored(("logprobs",), f"cannot be had ({error.sentence.rstrip('.')})"))
        return None


def _streams_usage(values: Mapping[str, Any]) -> bool:
    return bool(values.get("stream_options", {}).get("include_usage", False))


async def embeddings(call: Call) -> web.StreamResponse:
    values = call.values
    entry = call.entry(values["model"])
    vectors = await embed(
        call, entry, translate.prompts_of(values["input"]), values.get("dimensions"), None, _purpose(values)
    )
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


def _purpose(values: Mapping[str, Any]) -> str:
    """query or document, whichever of the words in use says it; empty where the request does not say."""
    word = values.get("input_type", "")
    return next(
        (purpose for purpose in ("query", "document") if purpose in word), "document" if word == "passage" else ""
    )


def model_value(entry: Entry) -> dict[str, Any]:
    return {name: value for name, read in MODEL_FIELDS.items() if (value := read(entry)) is not None}


async def models(call: Call) -> web.StreamResponse:
    """Those of the catalogue, each with its adapters, and their aliases; in Anthropic's form for its clients."""
    catalogue, rows = call.context.catalogue, list[tuple[str, Entry]]()
    for entry in catalogue.list():
        rows += [(name, entry) for name in (entry.id, *(f"{entry.id}:{adapter}" for adapter in entry.adapters))]
    rows += catalogue.aliased().items()
    if ANTHROPIC in call.request.headers:
        return json_response(anthropic_list([anthropic_value(entry, name) for name, entry in rows]))
    return json_response({"object": "list", "data": [{**model_value(entry), "id": name} for name, entry in rows]})


async def model(call: Call) -> web.StreamResponse:
    entry = call.entry()
    name = call.request.match_info["model"] if call.adapter() else entry.id
    if ANTHROPIC in call.request.headers:
        return json_response(anthropic_value(entry, name))
    return json_response({**model_value(entry), "id": name})


ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint("GET", "/v1/models", models, "Lists the models of the catalogue, their adapters and aliases."),
    Endpoint("GET", "/models", models, "The same, for clients that leave /v1 out."),
    Endpoint("GET", "/v1/models/{model:.+}", model, "Describes one model."),
    Endpoint("POST", "/v1/chat/completions", chat, "Answers a conversation.", body=CHAT, stream_type=SSE),
    Endpoint("POST", "/v1/completions", completions, "Continues a text.", body=COMPLETION, stream_type=SSE),
    Endpoint("POST", "/v1/embeddings", embeddings, "Embeds texts as vectors of length one.", body=EMBEDDING),
)
