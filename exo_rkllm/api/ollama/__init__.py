"""Ollama's language: chat, generate, the lists of models, pull and delete, embeddings; with real counts and times."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from typing import Any

from aiohttp import web

from exo_rkllm import __version__
from exo_rkllm.api import rights
from exo_rkllm.api.access import check_right
from exo_rkllm.api.context import Call, Endpoint
from exo_rkllm.api.embedding import embed
from exo_rkllm.api.encoding import NDJSON, json_line, json_response
from exo_rkllm.api.faults import error_body
from exo_rkllm.api.leniency import permitted_keep_alive
from exo_rkllm.api.ollama import tables, translate
from exo_rkllm.api.ollama.stream import OllamaEncoder
from exo_rkllm.api.response_format import ResponseFormat
from exo_rkllm.api.streaming import complete_answer, open_stream, stream_answers
from exo_rkllm.backends.base import GenerationRequest
from exo_rkllm.errors import ExoRkllmError, NotSupported

# ── chat and generate ────────────────────────────────────────────────────────────────────────────


async def chat(call: Call) -> web.StreamResponse:
    values = call.values
    entry = call.entry(values["model"])
    if not values.get("messages"):
        return await _load_only(call, entry.id, translate.chat_content(""))
    shape = translate.format_of(values)
    return await _answer(call, translate.chat_request(entry, values, shape), translate.chat_content, shape)


async def generate(call: Call) -> web.StreamResponse:
    values = call.values
    entry = call.entry(values["model"])
    if not values.get("prompt"):
        return await _load_only(call, entry.id, translate.generate_content(""))
    shape = translate.format_of(values)
    return await _answer(call, translate.generate_request(entry, values, shape), translate.generate_content, shape)


async def _load_only(call: Call, model: str, content: dict[str, Any]) -> web.StreamResponse:
    """A question without words: Ollama's way to load a model beforehand, or to unload it."""
    check_right(call.caller, rights.LOAD_OR_UNLOAD.right)
    keep_alive = translate.keep_alive_of(call.values)
    if keep_alive == 0:
        await call.context.dispatcher.unload(model)
    else:
        await call.context.dispatcher.load(model, keep_alive)
    reason = "unload" if keep_alive == 0 else "load"
    return json_response(
        {"model": call.values["model"], "created_at": translate.now(), **content, "done": True, "done_reason": reason}
    )


async def _answer(
    call: Call, request: GenerationRequest, content: translate.Content, shape: ResponseFormat
) -> web.StreamResponse:
    keep_alive = permitted_keep_alive(call, translate.keep_alive_of(call.values))
    began = time.monotonic()
    name = call.values["model"]
    if call.values.get("stream", True):
        return await stream_answers(
            call, [request], OllamaEncoder(name, call.id, shape, content, began), NDJSON, keep_alive
        )
    answer = await complete_answer(call, request, keep_alive)
    text = shape.check(answer.text, answer.tool_calls)
    return json_response(
        {
            "model": name,
            "created_at": translate.now(),
            **content(text, answer.reasoning, answer.tool_calls),
            **translate.end_value(answer.finish, began),
        }
    )


# ── models ───────────────────────────────────────────────────────────────────────────────────────


async def tags(call: Call) -> web.StreamResponse:
    return json_response({"models": [translate.model_value(entry) for entry in call.context.catalogue.list()]})


async def ps(call: Call) -> web.StreamResponse:
    entries = {entry.id: entry for entry in call.context.catalogue.list()}
    models = [model for model in call.context.dispatcher.status().models if model.state in ("ready", "closing")]
    return json_response({"models": [translate.loaded_model_value(model, entries.get(model.name)) for model in models]})


async def show(call: Call) -> web.StreamResponse:
    return json_response(translate.show_value(call.entry(translate.model_name(call.values))))


async def pull(call: Call) -> web.StreamResponse:
    """A client that leaves ends the pull; what was fetched stays and is taken up by the next one."""
    name = translate.model_name(call.values, "ORG/REPO or ORG/REPO:FILE of the Hub.")
    if call.context.pull is None:
        raise NotSupported("This daemon fetches no models.", f"exo-rkllm pull {name}")
    stream = call.values.get("stream", True)
    response: web.StreamResponse | None = None
    async with aclosing(call.context.pull(name)) as progress:
        try:
            async for step in progress:
                if stream:
                    if response is None:
                        response = await open_stream(call, NDJSON)
                    await response.write(json_line(translate.pull_value(step)).encode())
        except ExoRkllmError as error:
            if response is None:
                raise
            await response.write(json_line(error_body(error, "ollama", call.id)).encode())
            return response
    if not stream:
        return json_response({"status": "success"})
    return await open_stream(call, NDJSON) if response is None else response  # aiohttp 3.8's may count as false


async def delete(call: Call) -> web.StreamResponse:
    """By the full name: what a shorter one would find when it asks, it must not delete."""
    name = call.context.catalogue.removable(translate.model_name(call.values).removesuffix(":latest"))
    await call.context.dispatcher.unload(name)
    await asyncio.to_thread(call.context.catalogue.remove, name)
    return json_response({})


async def refuse(call: Call) -> web.StreamResponse:
    raise NotSupported(
        f"{call.request.path} is not supported: models are entries with a card here, not layers of Modelfiles.",
        "exo-rkllm import PATH takes files, folders and rkllama's Modelfiles.",
    )


# ── embeddings ───────────────────────────────────────────────────────────────────────────────────


async def embed_many(call: Call) -> web.StreamResponse:
    values = call.values
    began = time.monotonic()
    texts = [values["input"]] if isinstance(values["input"], str) else values["input"]
    entry = call.entry(values["model"])
    keep_alive = permitted_keep_alive(call, translate.keep_alive_of(values))
    vectors = await embed(call, entry, texts, values.get("dimensions"), keep_alive)
    return json_response(
        {
            "model": values["model"],
            "embeddings": vectors.lists(),
            "total_duration": translate.nanoseconds(time.monotonic() - began),
            "load_duration": translate.nanoseconds(vectors.load),
            "prompt_eval_count": vectors.tokens,
        }
    )


async def embed_one(call: Call) -> web.StreamResponse:
    values = call.values
    keep_alive = permitted_keep_alive(call, translate.keep_alive_of(values))
    vectors = await embed(call, call.entry(values["model"]), [values["prompt"]], None, keep_alive)
    return json_response({"embedding": vectors.lists()[0]})


async def version(call: Call) -> web.StreamResponse:
    return json_response({"version": __version__})


ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint("POST", "/api/chat", chat, "Answers a conversation.", "ollama", body=tables.CHAT, stream_type=NDJSON),
    Endpoint(
        "POST", "/api/generate", generate, "Answers a prompt.", "ollama", body=tables.GENERATE, stream_type=NDJSON
    ),
    Endpoint("GET", "/api/tags", tags, "Lists the models of the catalogue.", "ollama"),
    Endpoint("GET", "/api/ps", ps, "Lists the models that are loaded.", "ollama"),
    Endpoint("POST", "/api/show", show, "Describes one model.", "ollama", body=tables.SHOW),
    Endpoint(
        "POST",
        "/api/pull",
        pull,
        "Fetches a model from the Hub.",
        "ollama",
        body=tables.PULL,
        stream_type=NDJSON,
    ),
    Endpoint("DELETE", "/api/delete", delete, "Deletes a model.", "ollama", body=tables.NAMED),
    Endpoint("POST", "/api/create", refuse, "Is not supported.", "ollama"),
    Endpoint("POST", "/api/copy", refuse, "Is not supported.", "ollama"),
    Endpoint("POST", "/api/push", refuse, "Is not supported.", "ollama"),
    Endpoint("POST", "/api/embed", embed_many, "Embeds texts as vectors of length one.", "ollama", body=tables.EMBED),
    Endpoint("POST", "/api/embeddings", embed_one, "Embeds one text as a vector.", "ollama", body=tables.EMBEDDINGS),
    Endpoint("GET", "/api/version", version, "Returns the daemon's version.", "ollama"),
)
