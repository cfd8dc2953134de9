"""What the daemon tells of itself: health, metrics, and its status once or as it changes; and two buttons."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import aclosing
from dataclasses import asdict
from typing import Any

from aiohttp import web

from exo_rkllm import __version__
from exo_rkllm.api import common_fields
from exo_rkllm.api.answer import SSE
from exo_rkllm.api.endpoint import Call, Endpoint
from exo_rkllm.api.faults import NoSuchPlace
from exo_rkllm.api.serve import always
from exo_rkllm.catalogue.store import Entry, Problem
from exo_rkllm.dispatch.status import ModelStatus

# Readings of the board are told once a second, as the driver makes them; only while somebody watches.
PERIOD = 1.0
# Changes that come faster than this are told together.
SHORTEST = 0.1
IDLE = ModelStatus(name="", engine="", state="cold", since=0.0)


def snapshot(call: Call) -> dict[str, Any]:
    """Everything at once; moments are seconds since the epoch, sizes bytes, and null is what is not known."""
    parts = call.parts
    status = parts.dispatcher.status()
    listing = parts.catalogue.scan()
    known = {model.name: model for model in status.models}
    entries = [model_value(entry, known.pop(entry.id, IDLE)) for entry in listing.entries]
    return {
        "version": __version__,
        "time": time.time(),
        "ready": not (status.draining or status.unavailable_reason),
        "draining": status.draining,
        "unavailable_reason": status.unavailable_reason,
        "hint": status.hint,
        "running": status.running,
        "waiting": status.waiting,
        "models": [*entries, *(running_value(model) for model in known.values())],
        "problems": [problem_value(problem) for problem in listing.problems],
        "board": parts.board(),
        "cluster": parts.cluster(),
        "may": {"control": call.caller.control},
    }


def model_value(entry: Entry, status: ModelStatus) -> dict[str, Any]:
    card = entry.card
    return {
        **running_value(status),
        "name": entry.id,
        "engine": entry.engine,
        "title": card.name or entry.id,
        "quantization": card.quantization,
        "platform": card.platform,
        "context": status.context or card.context,
        "size": card.weights.size if card.weights else 0,
    }


def running_value(status: ModelStatus) -> dict[str, Any]:
    return {**asdict(status), "title": status.name, "quantization": "", "platform": "", "size": 0}


def problem_value(problem: Problem) -> dict[str, Any]:
    return {"folder": problem.folder.name, "sentence": problem.error.sentence, "hint": problem.error.hint}


async def status(call: Call) -> web.StreamResponse:
    return web.json_response(snapshot(call))


async def events(call: Call) -> web.StreamResponse:
    """The status now, after every change, and once a second with fresh readings."""
    settings = call.parts.settings()
    headers = {"Content-Type": SSE, "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    response = web.StreamResponse(headers={**headers, **always(call.request, settings, call.id)})
    changed = asyncio.Event()
    watcher = asyncio.create_task(_watch(call, changed))
    try:
        await response.prepare(call.request)
        with call.parts.watch():
            while True:
                changed.clear()
                told = snapshot(call)
                await response.write(f"event: status\ndata: {json.dumps(told)}\n\n".encode())
                if told["draining"]:
                    return response  # whoever watches connects again, to the daemon that comes after this one
                await asyncio.sleep(SHORTEST)
                await _wait(changed, PERIOD - SHORTEST)
    except ConnectionError:
        raise asyncio.CancelledError from None
    finally:
        watcher.cancel()


async def _watch(call: Call, changed: asyncio.Event) -> None:
    async with aclosing(call.parts.dispatcher.subscribe()) as changes:
        async for _ in changes:
            changed.set()


async def _wait(changed: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(changed.wait(), seconds)
    except asyncio.TimeoutError:
        return


async def healthz(call: Call) -> web.StreamResponse:
    return web.Response(text="ok\n")


async def readyz(call: Call) -> web.StreamResponse:
    status = call.parts.dispatcher.status()
    if status.draining:
        return web.Response(status=503, text="The daemon is stopping.\n")
    if status.unavailable_reason:
        return web.Response(status=503, text=f"{status.unavailable_reason} {status.hint}".strip() + "\n")
    return web.Response(text="ready\n")


async def metrics(call: Call) -> web.StreamResponse:
    if call.parts.metrics is None:
        raise NoSuchPlace("Metrics are switched off.", "[metrics] enabled = true")
    body, content_type = call.parts.metrics(call.request.headers.get("Accept", ""))
    return web.Response(body=body, headers={"Content-Type": content_type})


async def node_id(call: Call) -> web.StreamResponse:
    """exo's workers probe every interface for it, and expect a JSON string."""
    identity = call.parts.node_id() if call.parts.node_id is not None else ""
    if not identity:
        raise NoSuchPlace("This daemon is in no cluster.", "[cluster] enabled = true")
    return web.json_response(identity)


async def load(call: Call) -> web.StreamResponse:
    await call.parts.dispatcher.load(common_fields.entry_of(call, call.name).id)
    return web.json_response(snapshot(call))


async def unload(call: Call) -> web.StreamResponse:
    await call.parts.dispatcher.unload(common_fields.entry_of(call, call.name).id)
    return web.json_response(snapshot(call))


ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint("GET", "/v1/status", status, "Board, models, queue and cluster at this moment."),
    Endpoint("GET", "/v1/events", events, "The status as it changes, as server-sent events.", content_type=SSE),
    Endpoint("POST", "/v1/models/{model:.+}/load", load, "Load a model.", right="control", statuses=(404,)),
    Endpoint("POST", "/v1/models/{model:.+}/unload", unload, "Unload a model.", right="control", statuses=(404,)),
    Endpoint("GET", "/healthz", healthz, "Whether the daemon lives.", right="open", content_type="text/plain"),
    Endpoint("GET", "/readyz", readyz, "Whether models can be asked.", right="open", content_type="text/plain"),
    Endpoint("GET", "/metrics", metrics, "For Prometheus.", content_type="text/plain"),
    Endpoint("GET", "/node_id", node_id, "The node's id in its exo cluster.", right="open", statuses=(404,)),
)
