"""A request's body: read within its limits of size and time, and parsed as strict JSON."""

from __future__ import annotations

import asyncio
import json
import math
import re
from typing import Any, NoReturn

import aiohttp
from aiohttp import web
from aiohttp.http_exceptions import BadHttpMessage

from exo_rkllm.api.context import ApiServerSettings
from exo_rkllm.api.faults import BodyTooLarge, BodyTooSlow
from exo_rkllm.schema.specs import FieldError

# Escapes that may stand for what no text has: half a surrogate pair, and the end of a C string.
SUSPECT = re.compile(rb"\\u(?:[dD][89a-fA-F]|0000)")
DEEPEST = 64


async def read_body(request: web.Request, settings: ApiServerSettings) -> Any:
    if (request.content_length or 0) > settings.config.body_bytes:
        raise BodyTooLarge(
            f"The body has {request.content_length} bytes, {settings.config.body_bytes} are allowed.",
            "Raise [api] body_bytes.",
        )
    try:
        raw = await asyncio.wait_for(request.read(), settings.config.body_seconds)
    except (aiohttp.ClientPayloadError, web.RequestPayloadError, BadHttpMessage):
        raise FieldError(
            "", "The body is not in the encoding that its Content-Encoding names.", "Send it as plain JSON."
        ) from None
    except asyncio.TimeoutError:
        raise BodyTooSlow(
            f"The body did not arrive within {settings.config.body_seconds:g} seconds.", "Send it faster."
        ) from None
    return parse(raw)


def parse(raw: bytes) -> Any:
    """Strict JSON: no NaN, no half characters, no NUL, which would cut a prompt inside the vendor's library."""
    try:
        value = json.loads(raw.decode("utf-8"), parse_constant=_refuse_constant, parse_float=_finite)
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


def _refuse_constant(name: str) -> NoReturn:
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
        for key, item in value.items():
            _check_text(key)
            _check_values(item, depth + 1)
    elif isinstance(value, list):
        for item in value:
            _check_values(item, depth + 1)


def _check_text(text: str) -> None:
    if "\0" in text:
        raise FieldError("", "The body holds a NUL character, which no model can be given.", "Take it out.")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise FieldError(
            "", "The body holds half a surrogate pair, which is no text.", "Send whole characters."
        ) from None
