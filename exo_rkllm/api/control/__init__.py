"""The control socket: what the command line asks of the daemon, as JSON over HTTP on a group-owned Unix socket.

Whoever may open the socket may do everything here; its file permissions are the only door. Long answers are JSON
lines: one object a step, and at the end `{"done": ...}` or `{"error": ...}`, so that a cut connection is noticed.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass
from typing import Any, Protocol, TypeAlias

from aiohttp import web

from exo_rkllm import __version__
from exo_rkllm.api.control.tables import ASK, COPY, CREATE, LOAD, MODEL_ONLY, PULL, STOP, PullRequest
from exo_rkllm.api.control.translate import line_count, log_change, question_of, read_body
from exo_rkllm.api.encoding import JSON_LINES, json_line, json_response
from exo_rkllm.api.faults import known_error
from exo_rkllm.api.streaming import cancelled_when_gone
from exo_rkllm.backends.base import JSON, Array, GenerationRequest, Piece
from exo_rkllm.board.history import HistoryPoint
from exo_rkllm.dispatch.dispatcher import Dispatcher
from exo_rkllm.errors import ExoRkllmError, NotSupported
from exo_rkllm.log.ring import Ring

PREFIX = "/control"
VERSION_HEADER = "X-Exo-Rkllm-Version"
# A cluster of many nodes changes many times a second; who watches it reads once.
CLUSTER_EVERY = 1.0
NO_CLUSTER = (
    "Write enabled = true under [cluster], with API keys also namespace, and restart it; exo-rkllm logs says where it "
    "could not."
)
Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]


class PlainView(Protocol):
    def plain(self) -> Mapping[str, Any]: ...


class ClusterControl(Protocol):
    """The board's part in an exo cluster; `view` is None where it takes none."""

    def view(self) -> PlainView | None: ...
    async def join(self) -> None: ...
    async def leave(self) -> None: ...


@dataclass(frozen=True, slots=True)
class ControlContext:
    """What the control socket works on.

    `facts` is what a status says besides the dispatcher's own; `pull` gives its steps as frozen dataclasses.
    """

    dispatcher: Dispatcher
    ring: Ring
    reload: Callable[[], Mapping[str, JSON]]
    facts: Callable[[], Mapping[str, JSON]]
    pull: Callable[[PullRequest], AsyncGenerator[Any, None]] | None = None
    remove: Callable[[str], Awaitable[str]] | None = None
    copy: Callable[[str, str], Awaitable[str]] | None = None
    create: Callable[[str, str], Awaitable[str]] | None = None
    cluster: ClusterControl | None = None
    history: Callable[[], Sequence[HistoryPoint]] = tuple


def application(context: ControlContext) -> web.Application:
    """To be put below `PREFIX` of an application that answers on the socket."""
    handlers = ControlApi(context)
    app = web.Application(middlewares=[_report_errors])
    app.add_routes(
        [
            web.get("/version", handlers.version),
            web.get("/status", handlers.status),
            web.get("/history", handlers.history),
            web.get("/logs", handlers.logs),
            web.post("/ask", handlers.ask),
            web.post("/load", handlers.load),
            web.post("/unload", handlers.unload),
            web.post("/stop", handlers.stop),
            web.post("/pull", handlers.pull),
            web.post("/rm", handlers.remove),
            web.post("/cp", handlers.copy),
            web.post("/create", handlers.create),
            web.post("/reload", handlers.reload),
            web.get("/cluster", handlers.cluster),
            web.post("/cluster/join", handlers.join),
            web.post("/cluster/leave", handlers.leave),
        ]
    )
    return app


class ControlApi:
    """One handler a verb."""

    def __init__(self, context: ControlContext) -> None:
        self._context = context

    async def version(self, request: web.Request) -> web.StreamResponse:
        return _json({"version": __version__, "pid": os.getpid()})

    async def status(self, request: web.Request) -> web.StreamResponse:
        if "follow" not in request.query:
            return _json(self._status())
        return await _stream(request, self._statuses())

    async def history(self, request: web.Request) -> web.StreamResponse:
        return _json({"samples": [asdict(point) for point in self._context.history()]})

    async def logs(self, request: web.Request) -> web.StreamResponse:
        count = line_count(request.query.get("lines", "100"))
        if "follow" in request.query:
            return await _stream(request, _dicts(self._context.ring.follow(count)))
        return _json({"lines": [asdict(line) for line in self._context.ring.latest(count)]})

    async def ask(self, request: web.Request) -> web.StreamResponse:
        """A question without any API's dialect: for `exo-rkllm run`, which then needs no model of its own in memory."""
        values = await read_body(request, ASK)
        answer = self._answer(question_of(values), values.get("keep_alive"), values.get("client", ""))
        return await _stream(request, answer)

    async def _answer(
        self, question: GenerationRequest, keep_alive: float | None, client: str
    ) -> AsyncGenerator[Mapping[str, Any], None]:
        """The queue is fair to whom the asker speaks for: a host in front of many names each of them."""
        answer = self._context.dispatcher.generate(question, client=f"local {client}".strip(), keep_alive=keep_alive)
        async with aclosing(answer):
            async for event in answer:
                if isinstance(event, Piece):
                    yield {"kind": event.kind, "text": event.text, "token": event.token}
                elif not isinstance(event, Array):
                    yield {type(event).__name__.lower(): asdict(event)}

    async def load(self, request: web.Request) -> web.StreamResponse:
        values = await read_body(request, LOAD)
        name = values["model"]
        log_change(request, "loads", name)
        await self._context.dispatcher.load(name, values.get("keep_alive"), pin=values.get("pin", False))
        return _json(self._status())

    async def unload(self, request: web.Request) -> web.StreamResponse:
        name = (await read_body(request, MODEL_ONLY))["model"]
        log_change(request, "unloads", name)
        return _json({"unloaded": await self._context.dispatcher.unload(name)})

    async def stop(self, request: web.Request) -> web.StreamResponse:
        """Of one answer; its reader is told that it was ended from outside."""
        id_ = (await read_body(request, STOP))["request"]
        log_change(request, "stops the request", id_)
        return _json({"stopped": await self._context.dispatcher.stop(id_)})

    async def pull(self, request: web.Request) -> web.StreamResponse:
        values = await read_body(request, PULL)
        if self._context.pull is None:
            raise NotSupported("This daemon pulls no models.", "exo-rkllm pull while the daemon is stopped")
        log_change(request, "pulls", values["model"])
        return await _stream(request, _dicts(self._context.pull(PullRequest(**values))))

    async def remove(self, request: web.Request) -> web.StreamResponse:
        name = (await read_body(request, MODEL_ONLY))["model"]
        if self._context.remove is None:
            raise NotSupported("This daemon deletes no models.", "exo-rkllm rm while the daemon is stopped")
        log_change(request, "deletes", name)
        return _json({"removed": await self._context.remove(name)})

    async def copy(self, request: web.Request) -> web.StreamResponse:
        values = await read_body(request, COPY)
        if self._context.copy is None:
            raise NotSupported("This daemon names no models.", "exo-rkllm cp while the daemon is stopped")
        log_change(request, "copies", values["model"])
        return _json({"name": await self._context.copy(values["model"], values["name"])})

    async def create(self, request: web.Request) -> web.StreamResponse:
        values = await read_body(request, CREATE)
        if self._context.create is None:
            raise NotSupported("This daemon makes no models.", "exo-rkllm create while the daemon is stopped")
        log_change(request, "creates", values["name"])
        return _json({"name": await self._context.create(values["name"], values["modelfile"])})

    async def reload(self, request: web.Request) -> web.StreamResponse:
        log_change(request, "reloads", "the configuration")
        return _json(self._context.reload())

    async def cluster(self, request: web.Request) -> web.StreamResponse:
        if "follow" in request.query:
            return await _stream(request, self._views())
        return _json(self._view())

    async def join(self, request: web.Request) -> web.StreamResponse:
        log_change(request, "joins", "the exo cluster")
        if self._context.cluster is not None:
            await self._context.cluster.join()
        return _json(self._view())

    async def leave(self, request: web.Request) -> web.StreamResponse:
        log_change(request, "leaves", "the exo cluster")
        if self._context.cluster is not None:
            await self._context.cluster.leave()
        return _json(self._view())

    def _view(self) -> Mapping[str, Any]:
        view = None if self._context.cluster is None else self._context.cluster.view()
        if view is None:
            raise NotSupported("This daemon joins no exo cluster.", NO_CLUSTER)
        return view.plain()

    async def _views(self) -> AsyncGenerator[Mapping[str, Any], None]:
        while True:
            yield self._view()
            await asyncio.sleep(CLUSTER_EVERY)

    def _status(self) -> dict[str, Any]:
        return {**asdict(self._context.dispatcher.status()), **self._context.facts()}

    async def _statuses(self) -> AsyncGenerator[dict[str, Any], None]:
        async with aclosing(self._context.dispatcher.subscribe()) as changes:
            async for _ in changes:
                yield self._status()


# ── answers ──────────────────────────────────────────────────────────────────────────────────────


@web.middleware
async def _report_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every failure leaves as the three parts of our errors, for the command line to print."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        sentence = f"The daemon has nothing under {request.method} {request.path}."
        hint = "Command and daemon differ in their versions: systemctl restart exo-rkllm"
        return _json({"error": {"code": "usage", "sentence": sentence, "hint": hint}}, error.status)
    except ConnectionError:
        raise
    except Exception as error:  # noqa: BLE001 - it is logged and told
        failure = known_error(error, f"{request.method} {request.path}")
        return _json({"error": _parts(failure)}, failure.status)


def _parts(error: ExoRkllmError) -> dict[str, str]:
    return {"code": error.code, "sentence": error.sentence, "hint": error.hint}


def _json(value: Any, status: int = 200) -> web.Response:
    return json_response(value, status, {VERSION_HEADER: __version__})


async def _dicts(steps: AsyncGenerator[Any, None]) -> AsyncGenerator[dict[str, Any], None]:
    async with aclosing(steps):
        async for step in steps:
            yield asdict(step)


async def _stream(request: web.Request, values: AsyncGenerator[Mapping[str, Any], None]) -> web.StreamResponse:
    """The first value is waited for, so that a refusal is still a status. A reader who leaves ends all of it."""
    with cancelled_when_gone(request):
        async with aclosing(values):
            value = await anext(values, None)
            response = web.StreamResponse(headers={VERSION_HEADER: __version__, "Content-Type": JSON_LINES})
            await response.prepare(request)
            end: Mapping[str, Any] = {"done": True}
            try:
                while value is not None:
                    await response.write(json_line(value).encode())
                    value = await anext(values, None)
            except ConnectionError:
                raise
            except Exception as error:  # noqa: BLE001 - it is logged and told
                end = {"error": _parts(known_error(error, f"{request.method} {request.path}"))}
        await response.write(json_line(end).encode())
    return response
