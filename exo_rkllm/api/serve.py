"""What happens to every request before and after its endpoint: identity, rights, the body, and errors in its shape."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import re
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn, TypeAlias

from aiohttp import web

from exo_rkllm.api import faults
from exo_rkllm.api.caller import allowed_origin, caller, check_site, is_unix, may_control
from exo_rkllm.api.context import ApiContext, ApiServerSettings
from exo_rkllm.api.disconnect import cancelled_when_gone
from exo_rkllm.api.endpoint import Call, Endpoint
from exo_rkllm.errors import ExoRkllmError
from exo_rkllm.schema.specs import FieldError

Next: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
FIELD_NAME = re.compile(r"[A-Za-z0-9._-]{1,40}", re.ASCII)
# Escapes that may stand for what no text has: half a surrogate pair, and the end of a C string.
SUSPECT = re.compile(rb"\\u(?:[dD][89a-fA-F]|0000)")
# aiohttp 3.14 warns of plain strings, and 3.8 has nothing else.
ID: Any = web.RequestKey("id", str) if hasattr(web, "RequestKey") else "exo_rkllm.id"
DEEPEST = 64


def middleware(parts: ApiContext) -> Any:
    """The outermost layer; whatever is raised below leaves as JSON of the right shape, without a traceback."""

    @web.middleware
    async def every(request: web.Request, handler: Next) -> web.StreamResponse:
        sent = request.headers.get("X-Request-Id", "")
        request[ID] = identity = sent if REQUEST_ID.fullmatch(sent) else secrets.token_hex(16)
        settings = parts.settings()
        try:
            check_site(request.headers, settings)
            response = _preflight(request) if _is_preflight(request) else await handler(request)
        except ExoRkllmError as error:
            response = refusal(request, error)
        except web.HTTPException as error:
            response = refusal(request, _of_http(error, request))
            if "Allow" in error.headers:
                response.headers["Allow"] = error.headers["Allow"]
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception:
            logging.getLogger("exo_rkllm.api").exception("%s %s failed", request.method, ascii(request.path))
            response = refusal(request, faults.broken())
        if not response.prepared:
            response.headers.update(always(request, settings, identity))
        return response

    return every


def always(request: web.Request, settings: ApiServerSettings, identity: str) -> dict[str, str]:
    """Headers of every answer; streams set them before they begin."""
    headers = {"X-Request-Id": identity, "X-Content-Type-Options": "nosniff"}
    if request.path.startswith("/v1/messages"):
        headers["request-id"] = identity
    origin = request.headers.get("Origin", "")
    if origin and settings.origins and allowed_origin(origin, request.headers.get("Host", ""), settings):
        headers |= {"Access-Control-Allow-Origin": origin, "Vary": "Origin"}
    return headers


def _is_preflight(request: web.Request) -> bool:
    return request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers


def _preflight(request: web.Request) -> web.StreamResponse:
    allowed = {
        "Access-Control-Allow-Methods": "GET, POST, DELETE",
        "Access-Control-Allow-Headers": request.headers.get("Access-Control-Request-Headers", "*"),
        "Access-Control-Max-Age": "600",
    }
    return web.Response(status=204, headers=allowed)


def refusal(request: web.Request, error: ExoRkllmError) -> web.Response:
    endpoint = getattr(request.match_info.handler, "endpoint", None)
    language = endpoint.language if isinstance(endpoint, Endpoint) else faults.language_of(request.path)
    body = faults.body_of(error, language, request[ID])
    return web.Response(
        status=error.status, text=body, content_type="application/json", headers=faults.headers_of(error)
    )


def _of_http(error: web.HTTPException, request: web.Request) -> ExoRkllmError:
    path = ascii(request.path[:100])
    if error.status == 404:
        return faults.NoSuchPlace(f"Nothing answers under {path}.", "GET /openapi.json lists what does.")
    if error.status == 405:
        return faults.WrongMethod(f"{path} does not take {request.method}.", "GET /openapi.json lists what it takes.")
    if error.status == 413:
        return faults.BodyTooLarge("The body is larger than this daemon takes.", "Raise [api] body_bytes.")
    unknown = ExoRkllmError(f"This request cannot be answered: {error.reason}.")
    unknown.status = error.status
    return unknown


def serve(endpoint: Endpoint, parts: ApiContext) -> Next:
    """The endpoint as aiohttp calls it."""

    async def handler(request: web.Request) -> web.StreamResponse:
        settings = parts.settings()
        transport = request.transport
        sock = None if transport is None else transport.get_extra_info("socket")
        local = is_unix(sock)
        if endpoint.right != "open":
            who = caller(request.headers, request.remote or "", settings, local=local)
            if endpoint.right == "control":
                may_control(who)
        else:
            who = caller(request.headers, request.remote or "", ApiServerSettings(settings.keys), local=local)
        values: dict[str, Any] = {}
        ignored: list[str] = []
        if endpoint.body is not None:
            body = await read_body(request, settings)
            values = endpoint.body.check(body, "")
            ignored = [name for name in endpoint.body.unknown(body) if FIELD_NAME.fullmatch(name)][:20]
        with cancelled_when_gone(request):
            response = await endpoint.handler(Call(parts, request, who, request[ID], values))
        if ignored and not response.prepared:
            response.headers["X-Ignored-Fields"] = ", ".join(ignored)
        return response

    handler.endpoint = endpoint  # type: ignore[attr-defined]  # for `refusal`, which has only the handler
    return handler


# ── the body ─────────────────────────────────────────────────────────────────────────────────────


async def read_body(request: web.Request, settings: ApiServerSettings) -> Any:
    if (request.content_length or 0) > settings.body_bytes:
        raise faults.BodyTooLarge(
            f"The body has {request.content_length} bytes, {settings.body_bytes} are allowed.",
            "Raise [api] body_bytes.",
        )
    try:
        raw = await asyncio.wait_for(request.read(), settings.body_seconds)
    except asyncio.TimeoutError:
        raise faults.BodyTooSlow(
            f"The body did not arrive within {settings.body_seconds:g} seconds.", "Send it faster."
        ) from None
    return parse(raw)


def parse(raw: bytes) -> Any:
    """Strict JSON: no NaN, no half characters, no NUL, which would cut a prompt inside the vendor's library."""
    try:
        value = json.loads(raw.decode("utf-8"), parse_constant=_no_constant, parse_float=_finite)
    except UnicodeDecodeError as error:
        raise FieldError("", f"The body is not UTF-8 (byte {error.start}).", "Send JSON as UTF-8.") from None
    except (ValueError, RecursionError) as error:
        raise FieldError("", f"The body is not JSON: {_reason(error)}.", "Send one JSON object.") from None
    if SUSPECT.search(raw) or raw.count(b"{") + raw.count(b"[") > DEEPEST:
        _check_values(value, 0)
    return value


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} (line {error.lineno}, column {error.colno})"
    return "it is nested too deeply" if isinstance(error, RecursionError) else "a number is out of range"


def _no_constant(name: str) -> NoReturn:
    raise json.JSONDecodeError(f"{name} is no JSON value", "", 0)


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise json.JSONDecodeError("a number is out of range", "", 0)
    return value


def _check_values(value: Any, depth: int) -> None:
    if depth > DEEPEST:
        raise FieldError("", f"The body is nested more than {DEEPEST} levels deep.")
    if isinstance(value, str):
        _check_text(value)
    elif isinstance(value, dict):
        for key, held in value.items():
            _check_text(key)
            _check_values(held, depth + 1)
    elif isinstance(value, list):
        for held in value:
            _check_values(held, depth + 1)


def _check_text(text: str) -> None:
    if "\0" in text:
        raise FieldError("", "The body holds a NUL character, which no model can be given.", "Take it out.")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise FieldError(
            "", "The body holds half a surrogate pair, which is no text.", "Send whole characters."
        ) from None
