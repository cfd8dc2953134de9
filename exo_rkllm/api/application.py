"""The route table, and what happens to every request around its endpoint: identity, rights, body, errors."""

from __future__ import annotations

import re
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias

from aiohttp import web

from exo_rkllm.api import anthropic, faults, gallery, ollama, openai, openapi, page, rerank, responses, status, tokens
from exo_rkllm.api.access import check_api_key, check_right, check_site, common_headers, is_unix
from exo_rkllm.api.bodies import HeldBody
from exo_rkllm.api.body import is_large, memory_of, parse, read_body, scan
from exo_rkllm.api.context import ApiContext, Call, Endpoint
from exo_rkllm.api.encoding import json_response
from exo_rkllm.api.fetching import fetch_images
from exo_rkllm.api.leniency import ignored_fields
from exo_rkllm.api.streaming import cancelled_when_gone
from exo_rkllm.errors import ExoRkllmError
from exo_rkllm.schema.specs import ObjectSpec

Next: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
# aiohttp 3.14 warns of plain strings, and 3.8 has nothing else.
ID: Any = web.RequestKey("id", str) if hasattr(web, "RequestKey") else "exo_rkllm.id"


def endpoints() -> tuple[Endpoint, ...]:
    """Every endpoint there is; what they have to remember between calls is made here."""
    rows = (
        *openai.ENDPOINTS,
        *responses.endpoints(),
        *anthropic.ENDPOINTS,
        *ollama.ENDPOINTS,
        *tokens.ENDPOINTS,
        *rerank.ENDPOINTS,
        *status.ENDPOINTS,
        *gallery.ENDPOINTS,
        *page.ENDPOINTS,
    )
    return (*rows, openapi.endpoint(rows))


def application(context: ApiContext) -> web.Application:
    app = web.Application(middlewares=[_middleware(context)], client_max_size=context.settings().config.body_bytes)
    for endpoint in endpoints():
        app.router.add_route(endpoint.method, endpoint.path, _serve(endpoint, context))
    return app


def _middleware(context: ApiContext) -> Any:
    """The outermost layer; whatever is raised below leaves as JSON of the right shape, without a traceback."""

    @web.middleware
    async def answer(request: web.Request, handler: Next) -> web.StreamResponse:
        own_id = request.headers.get("X-Request-Id", "")
        request[ID] = request_id = own_id if REQUEST_ID.fullmatch(own_id) else secrets.token_hex(16)
        settings = context.settings()
        try:
            check_site(request.headers, request.remote or "", settings)
            response = _preflight(request) if _is_preflight(request) else await handler(request)
        except web.HTTPException as error:
            response = _refusal(request, _of_http(error, request))
            if "Allow" in error.headers:
                response.headers["Allow"] = error.headers["Allow"]
        except ConnectionError:
            raise
        except Exception as error:  # noqa: BLE001 - it is logged and told
            response = _refusal(request, faults.known_error(error, f"{request.method} {request.path!a}"))
        if not response.prepared:
            response.headers.update(common_headers(request, settings, request_id))
        return response

    return answer


def _serve(endpoint: Endpoint, context: ApiContext) -> Next:
    """The endpoint as aiohttp calls it."""

    async def handler(request: web.Request) -> web.StreamResponse:
        settings = context.settings()
        transport = request.transport
        local = is_unix(None if transport is None else transport.get_extra_info("socket"))
        caller = check_api_key(
            request.headers, request.remote or "", settings, local=local, required=endpoint.right != "open"
        )
        check_right(caller, endpoint.right)
        headers = common_headers(request, settings, request[ID])
        call = Call(context, request, caller, request[ID], {}, headers, [])
        with context.bodies.hold(caller.client, settings.config.body_bytes) as held:
            if endpoint.body is not None:
                call = await _with_body(call, endpoint.body, await read_body(request, settings, held), held)
            with cancelled_when_gone(request):
                if settings.config.fetch_images:
                    await fetch_images(call.values, settings.config.body_bytes, held, partial(_check_sight, call))
                response = await endpoint.handler(call)
        if not response.prepared:
            response.headers.update(call.headers)
        return response

    handler.endpoint = endpoint  # type: ignore[attr-defined]  # for `_refusal`, which has only the handler
    return handler


def _check_sight(call: Call) -> None:
    """Raises where the model does not exist or is known not to see: nothing is fetched for it."""
    if call.context.engine_spec is not None:
        entry = call.entry(call.values.get("model", ""))
        call.context.engine_spec(entry).check_sight(entry)


async def _with_body(call: Call, table: ObjectSpec, raw: bytearray, held: HeldBody) -> Call:
    strict = call.context.settings().config.strict
    if not is_large(raw):
        values, ignored = _checked(table, parse(raw), strict=strict)
        return replace(call, values=values, ignored=ignored)
    (values, ignored), memory = await call.context.bodies.compute(_measured, table, raw, strict=strict)
    held.resize(memory)
    return replace(call, values=values, ignored=ignored, large=True)


def _measured(table: ObjectSpec, raw: bytearray, *, strict: bool) -> tuple[tuple[dict[str, Any], list[str]], int]:
    """What the body says, and how many bytes of memory that takes."""
    scan(raw)
    body = parse(raw)
    return _checked(table, body, strict=strict), memory_of(body)


def _checked(table: ObjectSpec, body: Any, *, strict: bool) -> tuple[dict[str, Any], list[str]]:
    """The values of the table's fields, and the names of those that have no effect."""
    return table.check(body, ""), ignored_fields(table, body, strict=strict)


def _is_preflight(request: web.Request) -> bool:
    return request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers


def _preflight(request: web.Request) -> web.StreamResponse:
    headers = {
        "Access-Control-Allow-Methods": "GET, POST, DELETE",
        "Access-Control-Allow-Headers": request.headers.get("Access-Control-Request-Headers", "*"),
        "Access-Control-Max-Age": "600",
    }
    return web.Response(status=204, headers=headers)


def _refusal(request: web.Request, error: ExoRkllmError) -> web.Response:
    endpoint = getattr(request.match_info.handler, "endpoint", None)
    language = endpoint.language if isinstance(endpoint, Endpoint) else faults.language_of(request.path)
    body = faults.error_body(error, language, request[ID])
    return json_response(body, status=error.status, headers=faults.error_headers(error))


def _of_http(error: web.HTTPException, request: web.Request) -> ExoRkllmError:
    path = ascii(request.path[:100])
    if error.status == 404:
        return faults.NoSuchPlace("Nothing answers under this path.", "GET /openapi.json lists what does.")
    if error.status == 405:
        return faults.WrongMethod(f"{path} does not take {request.method}.", "GET /openapi.json lists what it takes.")
    if error.status == 413:
        return faults.BodyTooLarge("The body is larger than this daemon takes.", "Raise [api] body_bytes.")
    other = ExoRkllmError(f"This request cannot be answered: {error.reason}.")
    other.status = error.status
    return other
