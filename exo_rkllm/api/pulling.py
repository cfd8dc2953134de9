"""A pull over HTTP: the catalogue's progress, a JSON object a line, in Ollama's words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any

from aiohttp import web

from exo_rkllm.api.answer import NDJSON
from exo_rkllm.api.endpoint import Call
from exo_rkllm.api.faults import body_of
from exo_rkllm.api.serve import always
from exo_rkllm.catalogue.progress import PullProgress, PullStage
from exo_rkllm.errors import ExoRkllmError, NotSupported

STATUS: Mapping[PullStage, str] = {
    "resolving": "pulling manifest",
    "verifying": "verifying sha256 digest",
    "writing": "writing manifest",
    "done": "success",
}


def value_of(step: PullProgress) -> dict[str, Any]:
    """Clients draw a bar for each digest, and wait for the word success."""
    if step.stage != "downloading":
        return {"status": STATUS.get(step.stage, step.text)}
    digest = f"sha256:{step.sha256}" if step.sha256 else step.file
    return {"status": f"pulling {step.file}", "digest": digest, "total": step.total, "completed": step.done}


async def pulled(call: Call, name: str, *, stream: bool) -> web.StreamResponse:
    """A client that leaves ends the pull; what was fetched stays and is taken up by the next one."""
    if call.parts.pull is None:
        raise NotSupported("This daemon fetches no models.", f"exo-rkllm pull {name}")
    response: web.StreamResponse | None = None
    async with aclosing(call.parts.pull(name)) as progress:
        try:
            async for step in progress:
                if stream:
                    if response is None:
                        response = await _begun(call)
                    await response.write(json.dumps(value_of(step)).encode() + b"\n")
        except ExoRkllmError as error:
            if response is None:
                raise
            await response.write(body_of(error, "ollama", call.id).encode() + b"\n")
            return response
    if not stream:
        return web.json_response({"status": "success"})
    return await _begun(call) if response is None else response  # aiohttp 3.8 counts a response without keys as false


async def _begun(call: Call) -> web.StreamResponse:
    headers = {"Content-Type": NDJSON, **always(call.request, call.parts.settings(), call.id)}
    response = web.StreamResponse(headers=headers)
    await response.prepare(call.request)
    return response
