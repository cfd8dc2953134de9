"""Ollama's language: chat, generate, the lists of models, pull and delete, embeddings; with real counts and times."""

from __future__ import annotations

import time
from typing import Any

from aiohttp import web

from exo_rkllm import __version__
from exo_rkllm.api import rights
from exo_rkllm.api.access import check_right
from exo_rkllm.api.context import Call, Endpoint
from exo_rkllm.api.embedding import embed
from exo_rkllm.api.encoding import NDJSON, json_response
from exo_rkllm.api.leniency import permitted_keep_alive
from exo_rkllm.api.ollama import changes, tables, translate
from exo_rkllm.api.ollama.stream import OllamaEncoder
from exo_rkllm.api.openai.logprobs import chat_logprobs, ignore_logprobs, top_logprobs, with_logprobs
from exo_rkllm.api.response_format import ResponseFormat
from exo_rkllm.api.streaming import complete_answer, stream_answers
from exo_rkllm.backends.base import GenerationRequest
from exo_rkllm.errors import NotSupported

LEVEL = "0.17.0"

# ── chat and generate ────────────────────────────────────────────────────────────────────────────


async def chat(call: Call) -> web.StreamResponse:
    values = call.values
    entry = call.entry(values["model"])
    if not values.get("messages"):
        return await _load_only(call, entry.id, translate.chat_content(""))
    shape = await call.compute(translate.format_of, values)
    request = await call.compute(translate.chat_request, entry, values, shape)
    return await _answer(call, request, translate.chat_content, shape)


async def generate(call: Call) -> web.StreamResponse:
    values = call.values
    entry = call.entry(values["model"])
    if not values.get("prompt"):
        return await _load_only(call, entry.id, translate.generate_content(""))
    shape = await call.compute(translate.format_of, values)
    request = await call.compute(translate.generate_request, entry, values, shape)
    return await _answer(call, request, translate.generate_content, shape)


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
    top = top_logprobs(call.values)
    if call.values.get("stream", True):
        if top is not None:
            ignore_logprobs(call, name, "has no effect in a stream")
        return await stream_answers(
            call, [request], OllamaEncoder(name, call.id, shape, content, began), NDJSON, keep_alive
        )
    entry = call.entry(name)
    answer = await complete_answer(call, with_logprobs(call, entry, request, top), keep_alive)
    tokens = None if top is None else await chat_logprobs(call, entry, request, answer, top)
    text = shape.check(answer.text, answer.tool_calls)
    return json_response(
        {
            "model": name,
            "created_at": translate.now(),
            **content(text, answer.reasoning, answer.tool_calls),
            **({} if tokens is None else {"logprobs": tokens}),
            **translate.end_value(answer.finish, began),
        }
    )


# ── models ───────────────────────────────────────────────────────────────────────────────────────


async def tags(call: Call) -> web.StreamResponse:
    catalogue = call.context.catalogue
    models = [translate.model_value(entry) for entry in catalogue.list()]
    aliases = [
        {**translate.model_value(entry), "name": alias, "model": alias} for alias, entry in catalogue.aliased().items()
    ]
    return json_response({"models": [*models, *aliases]})


async def ps(call: Call) -> web.StreamResponse:
    entries = {entry.id: entry for entry in call.context.catalogue.list()}
    models = [model for model in call.context.dispatcher.status().models if model.state in ("ready", "closing")]
    return json_response({"models": [translate.loaded_model_value(model, entries.get(model.name)) for model in models]})


async def show(call: Call) -> web.StreamResponse:
    return json_response(translate.show_value(call.entry(translate.model_name(call.values))))


async def refuse(call: Call) -> web.StreamResponse:
    raise NotSupported("Models are not published from here.", "Upload the model's folder to the Hub.")


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
    """The level of Ollama's API that is spoken: clients refuse to talk to an older one."""
    return json_response({"version": LEVEL, "exo_rkllm": __version__})


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
        changes.pull,
        "Fetches a model from the Hub; one that is here already is fetched.",
        "ollama",
        body=tables.PULL,
        stream_type=NDJSON,
    ),
    Endpoint("DELETE", "/api/delete", changes.delete, "Deletes a model or an alias.", "ollama", body=tables.NAMED),
    Endpoint(
        "POST",
        "/api/create",
        changes.create,
        "Makes a model over another one's weights.",
        "ollama",
        body=tables.CREATE,
        stream_type=NDJSON,
    ),
    Endpoint("POST", "/api/copy", changes.copy, "Gives a model another name.", "ollama", body=tables.COPY),
    Endpoint("POST", "/api/push", refuse, "Is not supported.", "ollama"),
    Endpoint("POST", "/api/embed", embed_many, "Embeds texts as vectors of length one.", "ollama", body=tables.EMBED),
    Endpoint("POST", "/api/embeddings", embed_one, "Embeds one text as a vector.", "ollama", body=tables.EMBEDDINGS),
    Endpoint("GET", "/api/version", version, "Returns the level of Ollama's API, and the daemon's version.", "ollama"),
)
