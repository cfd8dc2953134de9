"""The control socket: what the command line asks of the daemon, as JSON over HTTP on a group-owned Unix socket.

Whoever may open the socket may do everything here; its file permissions are the only door. Long answers are JSON
lines: one object a step, and at the end `{"done": ...}` or `{"error": ...}`, so that a cut connection is noticed.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, TypeAlias

from aiohttp import web

from exo_rkllm import __version__
from exo_rkllm.api.disconnect import cancelled_when_gone
from exo_rkllm.api.peer import peer_of
from exo_rkllm.backends.base import JSON, Array, GenerationRequest, Message, Piece, Sampling
from exo_rkllm.dispatch.dispatcher import Dispatcher
from exo_rkllm.errors import ExoRkllmError, NotSupported, UsageError
from exo_rkllm.log.ring import Ring

log = logging.getLogger(__name__)

PREFIX = "/control"
VERSION_HEADER = "X-Exo-Rkllm-Version"
# A cluster of many nodes changes many times a second; who watches it reads once.
CLUSTER_EVERY = 1.0
LINES = "application/jsonl"
# The fields of a question, as `GenerationRequest` has them.
QUESTION: Mapping[str, type] = {
    "model": str,
    "prompt": str,
    "tokens": list,
    "messages": list,
    "sampling": dict,
    "max_tokens": int,
    "thinking": bool,
    "keep_alive": float,
    "client": str,
}
Plain: TypeAlias = Mapping[str, Any]
Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class PullRequest:
    """`endpoint` and `token` are the asker's own; empty, the daemon's count."""

    model: str
    name: str = ""
    soc: str = ""
    replace: bool = False
    endpoint: str = ""
    token: str = field(default="", repr=False)


class Pull(Protocol):
    """The catalogue's: steps as frozen dataclasses, or an error."""

    def __call__(self, asked: PullRequest) -> AsyncGenerator[Any, None]: ...


class Viewed(Protocol):
    def plain(self) -> Mapping[str, Any]: ...


class Clustered(Protocol):
    """The daemon's node in its exo cluster."""

    def view(self) -> Viewed: ...
    def join(self) -> None: ...


@dataclass(frozen=True, slots=True)
class ControlContext:
    """What the control socket works on. `facts` is what a status says besides the dispatcher's own."""

    dispatcher: Dispatcher
    ring: Ring
    reload: Callable[[], Mapping[str, JSON]]
    facts: Callable[[], Mapping[str, JSON]]
    pull: Pull | None = None
    remove: Callable[[str], Awaitable[str]] | None = None
    cluster: Callable[[], Clustered | None] = lambda: None


def application(controls: ControlContext) -> web.Application:
    """To be put below `PREFIX` of an application that answers on the socket."""
    handlers = ControlApi(controls)
    app = web.Application(middlewares=[_guarded])
    app.add_routes(
        [
            web.get("/version", handlers.version),
            web.get("/status", handlers.status),
            web.get("/logs", handlers.logs),
            web.post("/ask", handlers.ask),
            web.post("/load", handlers.load),
            web.post("/unload", handlers.unload),
            web.post("/pull", handlers.pull),
            web.post("/rm", handlers.remove),
            web.post("/reload", handlers.reload),
            web.get("/cluster", handlers.cluster),
            web.post("/cluster/join", handlers.join),
        ]
    )
    return app


class ControlApi:
    """One handler a verb."""

    def __init__(self, controls: ControlContext) -> None:
        self._on = controls

    async def version(self, request: web.Request) -> web.StreamResponse:
        return _json({"version": __version__, "pid": os.getpid()})

    async def status(self, request: web.Request) -> web.StreamResponse:
        if "follow" not in request.query:
            return _json(self._status())
        return await _stream(request, self._statuses())

    async def logs(self, request: web.Request) -> web.StreamResponse:
        count = _whole(request.query.get("lines", "100"), "lines")
        if "follow" in request.query:
            return await _stream(request, _dicts(self._on.ring.follow(count)))
        return _json({"lines": [asdict(line) for line in self._on.ring.latest(count)]})

    async def ask(self, request: web.Request) -> web.StreamResponse:
        """A question without any API's dialect: for `exo-rkllm run`, which then needs no model of its own in memory."""
        asked = await _body(request, **QUESTION)
        return await _stream(request, self._answer(_question(asked), asked.get("keep_alive"), asked.get("client", "")))

    async def _answer(
        self, question: GenerationRequest, keep_alive: float | None, client: str
    ) -> AsyncGenerator[Plain, None]:
        """The queue is fair to whom the asker speaks for: a host in front of many names each of them."""
        answer = self._on.dispatcher.generate(question, client=f"local {client}".strip(), keep_alive=keep_alive)
        async with aclosing(answer):
            async for event in answer:
                if isinstance(event, Piece):
                    yield {"kind": event.kind, "text": event.text, "token": event.token}
                elif not isinstance(event, Array):
                    yield {type(event).__name__.lower(): asdict(event)}

    async def load(self, request: web.Request) -> web.StreamResponse:
        asked = await _body(request, model=str, keep_alive=float, pin=bool)
        name = _model(asked)
        _note(request, "loads", name)
        await self._on.dispatcher.load(name, asked.get("keep_alive"), pin=asked.get("pin", False))
        return _json(self._status())

    async def unload(self, request: web.Request) -> web.StreamResponse:
        name = _model(await _body(request, model=str))
        _note(request, "unloads", name)
        return _json({"unloaded": await self._on.dispatcher.unload(name)})

    async def pull(self, request: web.Request) -> web.StreamResponse:
        asked = await _body(request, model=str, name=str, soc=str, replace=bool, endpoint=str, token=str)
        source = _model(asked)
        if self._on.pull is None:
            raise NotSupported("This daemon pulls no models.", "exo-rkllm pull while the daemon is stopped")
        _note(request, "pulls", source)
        return await _stream(request, _dicts(self._on.pull(PullRequest(**asked))))

    async def remove(self, request: web.Request) -> web.StreamResponse:
        name = _model(await _body(request, model=str))
        if self._on.remove is None:
            raise NotSupported("This daemon deletes no models.", "exo-rkllm rm while the daemon is stopped")
        _note(request, "deletes", name)
        return _json({"removed": await self._on.remove(name)})

    async def reload(self, request: web.Request) -> web.StreamResponse:
        _note(request, "reloads", "the configuration")
        return _json(self._on.reload())

    async def cluster(self, request: web.Request) -> web.StreamResponse:
        if "follow" in request.query:
            return await _stream(request, self._views())
        return _json(self._node().view().plain())

    async def join(self, request: web.Request) -> web.StreamResponse:
        """The operator wants the board in, with all its models, whatever kept it out."""
        node = self._node()
        _note(request, "joins", "the exo cluster")
        node.join()
        return _json(node.view().plain())

    def _node(self) -> Clustered:
        node = self._on.cluster()
        if node is None:
            raise NotSupported(
                "This daemon joins no exo cluster.",
                "Write enabled = true under [cluster] and restart it; exo-rkllm logs says where it could not.",
            )
        return node

    async def _views(self) -> AsyncGenerator[Mapping[str, Any], None]:
        while True:
            yield self._node().view().plain()
            await asyncio.sleep(CLUSTER_EVERY)

    def _status(self) -> dict[str, Any]:
        return {**asdict(self._on.dispatcher.status()), **self._on.facts()}

    async def _statuses(self) -> AsyncGenerator[dict[str, Any], None]:
        async with aclosing(self._on.dispatcher.subscribe()) as changes:
            async for _ in changes:
                yield self._status()


# ── requests ─────────────────────────────────────────────────────────────────────────────────────


async def _body(request: web.Request, **fields: type) -> dict[str, Any]:
    """A JSON object with these fields and no others."""
    try:
        body = json.loads(await request.read())
    except ValueError:
        raise UsageError("The request's body is not JSON.") from None
    if not isinstance(body, dict):
        raise UsageError("The request's body is not a JSON object.")
    for name, value in body.items():
        if name not in fields:
            raise UsageError(f"There is no field {name!r}.", f"There are: {', '.join(fields)}.")
        wanted = (int, float) if fields[name] is float else fields[name]
        if not isinstance(value, wanted) or (isinstance(value, bool) and fields[name] is not bool):
            raise UsageError(f"The field {name!r} must be {fields[name].__name__}, not {value!r}.")
    return body


def _question(asked: Mapping[str, Any]) -> GenerationRequest:
    try:
        return GenerationRequest(
            model=_model(asked),
            messages=tuple(Message(**message) for message in asked.get("messages", ())),
            prompt=asked.get("prompt"),
            tokens=_ids(asked["tokens"]) if "tokens" in asked else None,
            sampling=Sampling(**asked.get("sampling", {})),
            max_tokens=asked.get("max_tokens"),
            thinking=asked.get("thinking"),
        )
    except TypeError as error:
        raise UsageError(f"The question cannot be read: {error}.") from None


def _ids(given: list[Any]) -> tuple[int, ...]:
    if not all(isinstance(one, int) and not isinstance(one, bool) for one in given):
        raise UsageError("The field 'tokens' must hold token ids.")
    return tuple(given)


def _model(asked: Mapping[str, Any]) -> str:
    name = asked.get("model", "")
    if not name:
        raise UsageError("No model was named.", "exo-rkllm models lists them.")
    return str(name)


def _whole(text: str, name: str) -> int:
    if not text.isdecimal():
        raise UsageError(f"{name} must be a whole number, not {text!r}.")
    return int(text)


def _note(request: web.Request, does: str, what: str) -> None:
    """Who changed the daemon for everybody is written down."""
    sock = None if request.transport is None else request.transport.get_extra_info("socket")
    who = peer_of(sock) if sock is not None else "somebody"
    log.info("%s %s %s.", who, does, what, extra={"peer": who})


# ── answers ──────────────────────────────────────────────────────────────────────────────────────


@web.middleware
async def _guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every failure leaves as the three parts of our errors, for the command line to print."""
    try:
        return await handler(request)
    except ExoRkllmError as error:
        return _json({"error": _parts(error)}, error.status)
    except web.HTTPException as error:
        sentence = f"The daemon has nothing under {request.method} {request.path}."
        hint = "Command and daemon differ in their versions: systemctl restart exo-rkllm"
        return _json({"error": {"code": "usage", "sentence": sentence, "hint": hint}}, error.status)
    except (ConnectionError, asyncio.CancelledError):
        raise
    except Exception:
        log.exception("%s %s failed", request.method, request.path)
        return _json({"error": _parts(_broken())}, 500)


def _broken() -> ExoRkllmError:
    return ExoRkllmError("Something broke inside exo-rkllm.", "exo-rkllm logs shows what.")


def _parts(error: ExoRkllmError) -> dict[str, str]:
    return {"code": error.code, "sentence": error.sentence, "hint": error.hint}


def _json(value: Any, status: int = 200) -> web.Response:
    return web.json_response(value, status=status, headers={VERSION_HEADER: __version__})


async def _dicts(steps: AsyncGenerator[Any, None]) -> AsyncGenerator[dict[str, Any], None]:
    async with aclosing(steps):
        async for step in steps:
            yield asdict(step)


async def _stream(request: web.Request, values: AsyncGenerator[Mapping[str, Any], None]) -> web.StreamResponse:
    """The first value is waited for, so that a refusal is still a status. A reader who leaves ends all of it."""
    with cancelled_when_gone(request):
        async with aclosing(values):
            value = await anext(values, None)
            response = web.StreamResponse(headers={VERSION_HEADER: __version__, "Content-Type": LINES})
            await response.prepare(request)
            end: Mapping[str, Any] = {"done": True}
            try:
                while value is not None:
                    await _line(response, value)
                    value = await anext(values, None)
            except ExoRkllmError as error:
                end = {"error": _parts(error)}
            except (ConnectionError, asyncio.CancelledError):
                raise
            except Exception:
                log.exception("%s %s failed", request.method, request.path)
                end = {"error": _parts(_broken())}
        await _line(response, end)
    return response


async def _line(response: web.StreamResponse, value: Mapping[str, Any]) -> None:
    await response.write(json.dumps(value, separators=(",", ":")).encode() + b"\n")
