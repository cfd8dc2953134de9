"""Ollama's ways to change the catalogue: pull, copy (an alias), create from a Modelfile, delete."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any

from aiohttp import web

from exo_rkllm.api import changes, rights
from exo_rkllm.api.access import check_right
from exo_rkllm.api.context import Call
from exo_rkllm.api.encoding import NDJSON, json_line, json_response
from exo_rkllm.api.faults import error_body
from exo_rkllm.api.ollama import translate
from exo_rkllm.api.streaming import open_stream
from exo_rkllm.catalogue import modelfile
from exo_rkllm.catalogue.deriving import Recipe, add_alias, check_source, derive
from exo_rkllm.catalogue.entry import Entry
from exo_rkllm.errors import ExoRkllmError, ModelNotFound, NotSupported, UsageError
from exo_rkllm.sampling import SAMPLING_NAMES


async def pull(call: Call) -> web.StreamResponse:
    """A model that is here already is pulled; otherwise it takes the right to control.

    A client that leaves ends the pull; what was fetched stays and is taken up by the next one.
    """
    name = translate.model_name(call.values, "ORG/REPO or ORG/REPO:FILE of the Hub.")
    if _is_here(call, name):
        return await _done(call)
    from exo_rkllm.catalogue.gallery import is_short_name  # what fetches models is imported where one is fetched

    try:
        if not is_short_name(name):
            from exo_rkllm.catalogue.pull import PullTarget

            PullTarget.parse(name)
    except UsageError:
        raise ModelNotFound(
            f"No model {name[:100]!a} is here, and the Hub has none of a name without an organisation.",
            "exo-rkllm models lists those that are here; pull ORG/REPO fetches one.",
        ) from None
    check_right(call.caller, rights.PULL.right)
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


def _is_here(call: Call, name: str) -> bool:
    try:
        call.entry(name)
    except ModelNotFound:
        return False
    return True


async def _done(call: Call) -> web.StreamResponse:
    """The end of what had nothing left to do, in the form that the client asked for."""
    if not call.values.get("stream", True):
        return json_response({"status": "success"})
    response = await open_stream(call, NDJSON)
    await response.write(json_line({"status": "success"}).encode())
    return response


async def delete(call: Call) -> web.StreamResponse:
    name = translate.model_name(call.values).removesuffix(":latest")
    await changes.remove(call.context.catalogue, call.context.dispatcher, name)
    return json_response({})


async def copy(call: Call) -> web.StreamResponse:
    """A copy is another name for the model: it takes no space, and nothing is loaded twice."""
    entry = call.entry(call.values["source"])
    await asyncio.to_thread(add_alias, call.context.catalogue, call.values["destination"], entry)
    return json_response({})


async def create(call: Call) -> web.StreamResponse:
    """A model of its own over another one's weights, with what the Modelfile changes."""
    base, recipe = recipe_of(call, call.values)
    name = translate.model_name(call.values)
    catalogue = call.context.catalogue
    await changes.make_way(catalogue, call.context.dispatcher, name)
    await asyncio.to_thread(derive, catalogue, name, base, recipe)
    return await _done(call)


def recipe_of(call: Call, values: Mapping[str, Any]) -> tuple[Entry, Recipe]:
    """The model that a new one is made from, and what is changed: a Modelfile's text, or Ollama's fields for it."""
    file = modelfile.parse(values.get("modelfile", ""))
    source = values.get("from") or file.weights
    check_source("" if values.get("files") else source)
    if values.get("messages"):
        raise NotSupported("A card has no place for MESSAGE.", "Send the messages with the conversation.")
    adapters = [*values.get("adapters", ()), *([file.adapter] if file.adapter else [])]
    if len(adapters) > 1:
        raise UsageError(f"There are {len(adapters)} adapters, and an answer is given with one.", "Name one.")
    parameters = _parameters(values.get("parameters", {}))
    return call.entry(source), Recipe(
        system=values.get("system", file.system),
        template=values.get("template", file.template),
        context=parameters.context or file.context,
        stop=(*file.stop, *parameters.stop),
        adapter=adapters[0] if adapters else "",
        sampling=parameters.sampling.over(file.sampling),
    )


def _parameters(values: Mapping[str, Any]) -> modelfile.Modelfile:
    """Ollama's options of a model; those that a card has no place for (num_gpu, mirostat's kin) are left out."""
    known = {name: value for name, value in values.items() if name in {*SAMPLING_NAMES, "stop", "num_ctx"}}
    lines = [
        f"PARAMETER {name} {one}"
        for name, value in known.items()
        for one in (value if isinstance(value, list) else [value])
    ]
    return modelfile.parse("\n".join(lines), "parameters")
