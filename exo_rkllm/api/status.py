"""The daemon's own endpoints: health, metrics, its status once or as it changes, and load and unload."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing, suppress
from dataclasses import asdict
from typing import Any

from aiohttp import web

from exo_rkllm import __version__
from exo_rkllm.api.context import Call, Endpoint, Plain
from exo_rkllm.api.encoding import SSE, json_response, sse_event
from exo_rkllm.api.faults import NoSuchPlace
from exo_rkllm.api.status_models import differences
from exo_rkllm.api.streaming import open_stream
from exo_rkllm.backends.base import JSON
from exo_rkllm.board.counters import Clock, Reading
from exo_rkllm.board.detect import Board
from exo_rkllm.board.kernel_log import KernelLogWatch
from exo_rkllm.board.neighbours import Neighbours
from exo_rkllm.catalogue.entry import Entry, Problem
from exo_rkllm.errors import ExoRkllmError

# Readings of the board are sent once a second, as the driver makes them; only while somebody watches.
PERIOD = 1.0
# Changes that come faster than this are sent together.
SHORTEST = 0.1

# ── the status as a value ────────────────────────────────────────────────────────────────────────


def snapshot(call: Call) -> dict[str, Any]:
    """Everything at once; moments are seconds since the epoch, sizes bytes, and null is what is not known."""
    context = call.context
    status = context.dispatcher.status()
    listing = context.catalogue.scan()
    board = context.board()
    return {
        "version": __version__,
        "time": time.time(),
        "ready": not (status.draining or status.unavailable_reason or status.stuck),
        "draining": status.draining,
        "unavailable_reason": status.unavailable_reason,
        "hint": status.hint,
        "running": status.running,
        "waiting": status.waiting,
        "lease": asdict(status.lease),
        "stuck": [asdict(model) for model in status.stuck],
        "models": context.rows.of(listing.entries, status.models, board, lambda entry: _sees(call, entry)),
        "problems": [_problem_value(problem) for problem in listing.problems],
        "board": board,
        "cluster": context.cluster(),
        "pulls": [] if context.downloads is None else [asdict(row) for row in context.downloads.status()],
        "may": {"control": call.caller.may("control"), "load": call.caller.may("load")},
    }


def _sees(call: Call, entry: Entry) -> bool | None:
    """Whether the model takes images; None where only its load can tell."""
    spec = call.context.engine_spec
    try:
        return None if spec is None else spec(entry).sees(entry)
    except ExoRkllmError:  # its engine is not installed, which its load says
        return False


def _problem_value(problem: Problem) -> dict[str, Any]:
    return {"folder": problem.folder.name, "sentence": problem.error.sentence, "hint": problem.error.hint}


def board_value(board: Board, reading: Reading, neighbours: Neighbours | None = None) -> Plain:
    """Facts and readings of the board; what cannot be read is null, and `absent` has its reason."""
    npu = board.npu
    return {
        "title": board.title,
        "soc": board.soc.title if board.soc else board.soc_name.upper(),
        "tops": board.soc.tops if board.soc else None,
        "state": board.state,
        "sentence": board.sentence,
        "hint": board.hint,
        "kernel": board.kernel,
        "driver": None if npu is None else {"name": npu.driver, "version": npu.version, "cores": npu.cores},
        "powered": reading.powered,
        "load": None if reading.load is None else list(reading.load),
        "clock": _clock_value(reading.clock),
        "memory_clock": _clock_value(reading.ddr),
        "celsius": reading.celsius,
        "volts": reading.volts,
        "memory_total": reading.memory_total,
        "memory_available": reading.memory_available,
        "neighbours": None if neighbours is None else neighbours.plain(),
        "absent": dict(reading.absent),
    }


def kernel_log_value(watch: KernelLogWatch, board: Board) -> dict[str, JSON]:
    """The NPU's errors in the kernel's log by kind, and the fault that still holds; null where it cannot be read."""
    state = watch.state
    if state is None:
        return {"errors": None, "fault": None, "stops": False, "sentence": "", "hint": "", "absent": watch.absent}
    fault = state.fault
    return {
        "errors": dict(state.counts),
        "fault": None if fault is None else fault.name,
        "stops": state.stopping_fault is not None,
        "sentence": "" if fault is None else fault.sentence,
        "hint": "" if fault is None else fault.repair_on(board.npu.device if board.npu else "DEVICE"),
        "absent": "",
    }


def _clock_value(clock: Clock | None) -> dict[str, JSON] | None:
    if clock is None:
        return None
    return {"hertz": clock.hertz, "top": clock.top, "governor": clock.governor, "throttled": clock.throttled}


# ── endpoints ────────────────────────────────────────────────────────────────────────────────────


async def status(call: Call) -> web.StreamResponse:
    return json_response(snapshot(call))


async def events(call: Call) -> web.StreamResponse:
    """The status now, and its differences after every change and once a second with fresh readings.

    Events are named status, which has every field, and change, which has those that differ from the latest event's; of
    the models only the rows that do. Where models come or go, the whole status is sent again.
    """
    change = asyncio.Event()
    watcher = asyncio.create_task(_watch(call, change))
    try:
        response = await open_stream(call, SSE)
        with call.context.watch():
            latest: dict[str, Any] | None = None
            while True:
                change.clear()
                latest, value = snapshot(call), latest
                changes = None if value is None else differences(value, latest)
                event = sse_event(latest, "status") if changes is None else sse_event(changes, "change")
                await response.write(event.encode())
                if latest["draining"]:
                    return response  # whoever watches connects again, to the daemon that comes after this one
                await asyncio.sleep(SHORTEST)
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(change.wait(), PERIOD - SHORTEST)
    except ConnectionError:
        raise asyncio.CancelledError from None
    finally:
        watcher.cancel()


async def _watch(call: Call, change: asyncio.Event) -> None:
    async with aclosing(call.context.dispatcher.subscribe()) as changes:
        async for _ in changes:
            change.set()


async def history(call: Call) -> web.StreamResponse:
    """In the page's form: what could not be read is null, and the NPU's idle times are gaps."""
    return json_response({"samples": [asdict(point) for point in call.context.history()]})


async def healthz(call: Call) -> web.StreamResponse:
    return web.Response(text="ok\n")


async def readyz(call: Call) -> web.StreamResponse:
    status = call.context.dispatcher.status()
    if status.draining:
        return web.Response(status=503, text="The daemon is stopping.\n")
    if status.unavailable_reason:
        return web.Response(status=503, text=f"{status.unavailable_reason} {status.hint}".strip() + "\n")
    if status.stuck:
        lines = [f"{model.sentence} {model.hint}\n" for model in status.stuck]
        return web.Response(status=503, text="".join(lines))
    return web.Response(text="ready\n")


async def health(call: Call) -> web.StreamResponse:
    ready = await readyz(call)
    return json_response({"status": "ok" if ready.status == 200 else "unavailable"}, ready.status)


async def metrics(call: Call) -> web.StreamResponse:
    if call.context.metrics is None:
        raise NoSuchPlace("Metrics are switched off.", "[metrics] enabled = true")
    body, content_type = call.context.metrics(call.request.headers.get("Accept", ""))
    return web.Response(body=body, headers={"Content-Type": content_type})


async def node_id(call: Call) -> web.StreamResponse:
    """exo's workers probe every interface for it, and expect a JSON string."""
    identity = call.context.node_id() if call.context.node_id is not None else ""
    if not identity:
        raise NoSuchPlace("This daemon is in no cluster.", "[cluster] enabled = true")
    return json_response(identity)


async def load(call: Call) -> web.StreamResponse:
    await call.context.dispatcher.load(call.entry().id)
    return json_response(snapshot(call))


async def unload(call: Call) -> web.StreamResponse:
    await call.context.dispatcher.unload(call.entry().id)
    return json_response(snapshot(call))


TEXT = "text/plain"
ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint("GET", "/v1/status", status, "Returns the state of board, models, queue and cluster."),
    Endpoint("GET", "/v1/events", events, "Streams the status, and then what of it changes.", content_type=SSE),
    Endpoint("GET", "/v1/history", history, "Returns the board's last hour: load of the cores, tokens/s, temperature."),
    Endpoint("POST", "/v1/models/{model:.+}/load", load, "Loads a model."),
    Endpoint("POST", "/v1/models/{model:.+}/unload", unload, "Unloads a model."),
    Endpoint("GET", "/healthz", healthz, "Answers while the daemon lives.", content_type=TEXT),
    Endpoint("GET", "/readyz", readyz, "Tells whether models can be asked.", content_type=TEXT),
    *(
        Endpoint("GET", path, health, "Tells whether models can be asked, as vLLM and llama.cpp do.")
        for path in ("/health", "/v1/health", "/ping")
    ),
    Endpoint("GET", "/metrics", metrics, "Returns the metrics for Prometheus.", content_type=TEXT),
    Endpoint("GET", "/node_id", node_id, "Returns the node's id in its exo cluster, as a JSON string."),
)
