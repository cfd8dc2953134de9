"""A request's body: read within its limits of size and time, and parsed as strict JSON.

`json.loads` is one C call that nothing interrupts, and ten million empty objects take it 5 s and 900 MB. So `scan`
counts what a body would become before anything is made of it, by calls that take milliseconds for the largest body.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import sys
from typing import Any, NoReturn

import aiohttp
from aiohttp import web
from aiohttp.http_exceptions import BadHttpMessage

from exo_rkllm.api.bodies import HeldBody
from exo_rkllm.api.context import ApiServerSettings
from exo_rkllm.api.faults import BodyTooLarge, BodyTooSlow
from exo_rkllm.schema.specs import FieldError

DEEPEST = 64
# Measured on a desktop for the largest body of each kind: 25 ms for its names, 15 ms for its values.
MOST_NAMES = 10_000
MOST_VALUES = 50_000
LONGEST_NUMBER = 100
MOST_WIDE = 250_000
# A body of more bytes is taken apart beside the loop, and so is one of more values and names, or of so many quotes that
# looking for these takes long itself.
LARGE = 256 * 1024
MUCH = 2000
QUOTES = 4 * MUCH

NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
DIGITS = bytes(ord("0") if sign in b"0123456789+-.eE" else ord(" ") for sign in range(256))
# Behind a backslash it is no JSON, and must not become some.
WIDE = re.compile(rb"(?<!\\)[\xf0-\xf4][\x80-\xbf]{3}")
# Escapes that stand for half of a surrogate pair, or for the end of a C string.
DUBIOUS = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])")
STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


async def read_body(request: web.Request, settings: ApiServerSettings, held: HeldBody) -> bytearray:
    """The body's bytes; `held` grows with them. Raises BodyTooLarge, BodyTooSlow, Busy or FieldError."""
    largest = settings.config.body_bytes
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise FieldError("", "The body is compressed, and only plain JSON is read.", "Leave out Content-Encoding.")
    if (request.content_length or 0) > largest:
        raise BodyTooLarge(
            f"The body has {request.content_length} bytes, {largest} are allowed.", "Raise [api] body_bytes."
        )
    try:
        return await asyncio.wait_for(_received(request, largest, held), settings.config.body_seconds)
    except (aiohttp.ClientPayloadError, web.RequestPayloadError, BadHttpMessage):
        raise FieldError("", "The body does not arrive as its header says.", "Send it as plain JSON.") from None
    except asyncio.TimeoutError:
        raise BodyTooSlow(
            f"The body did not arrive within {settings.config.body_seconds:g} seconds.", "Send it faster."
        ) from None


async def _received(request: web.Request, largest: int, held: HeldBody) -> bytearray:
    raw = bytearray()
    while chunk := await request.content.readany():
        raw += chunk
        if len(raw) > largest:
            raise BodyTooLarge("The body is larger than this daemon takes.", "Raise [api] body_bytes.")
        held.resize(len(raw))
    return raw


def is_large(raw: bytes | bytearray) -> bool:
    """Whether taking the body apart, and what follows, may take longer than a loop should wait. `scan` may refuse."""
    return len(raw) > LARGE or raw.count(b'"') > QUOTES or scan(raw) > MUCH


def scan(raw: bytes | bytearray) -> int:
    """How many values and names a body holds, by what stands outside its strings; refuses more than the limits above.

    What is no JSON may be counted wrongly from its first mistake on, which is where `json.loads` stops.
    """
    text = raw
    if b"\\" in text:
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"")  # what is left of quotes begins or ends a string
    if text.count(b'"') > 2 * (MOST_NAMES + MOST_VALUES):
        raise _too_much("strings", text.count(b'"') // 2, MOST_NAMES + MOST_VALUES)
    outside = b"".join(text.split(b'"')[::2])
    del text
    depth = 0
    for sign in outside.translate(None, NOT_BRACKETS)[: 2 * MOST_NAMES]:
        depth += STEPS[sign]
        if depth > DEEPEST:
            raise FieldError("", f"The body is nested more than {DEEPEST} levels deep.")
    opened = outside.count(b"{") + outside.count(b"[")
    names = opened + outside.count(b":")
    if names > MOST_NAMES:
        raise _too_much("objects, lists and names", names, MOST_NAMES)
    values = opened + outside.count(b",") + 1
    if values > MOST_VALUES:
        raise _too_much("values", values, MOST_VALUES)
    if b"0" * (LONGEST_NUMBER + 1) in outside.translate(DIGITS):
        raise FieldError("", f"The body holds a number of more than {LONGEST_NUMBER} digits.", "Send it as a string.")
    return names - opened + values


def _too_much(what: str, count: int, most: int) -> BodyTooLarge:
    return BodyTooLarge(f"The body holds {count} {what}, {most} are allowed.", "Send less at once.")


def parse(raw: bytes | bytearray) -> Any:
    """Strict JSON that `scan` has taken: no NaN, no half characters, no NUL, which would cut a prompt inside the
    vendor's library.

    A bytearray is empty afterwards: its memory is needed for what is made of it.
    """
    dubious = b"\\" in raw and DUBIOUS.search(raw) is not None  # one sign is found faster than a pattern
    try:
        text = _without_wide(raw).decode("utf-8")
        if isinstance(raw, bytearray):
            raw.clear()
        value = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
    except UnicodeDecodeError as error:
        raise FieldError("", f"The body is not UTF-8 (byte {error.start}).", "Send JSON as UTF-8.") from None
    except (ValueError, RecursionError) as error:
        raise FieldError("", f"The body is not JSON: {_reason(error)}.", "Send one JSON object.") from None
    if dubious:
        _check_values(value)
    return value


def _without_wide(raw: bytes | bytearray) -> bytes | bytearray:
    """A large body with its characters beyond U+FFFF as escapes: one makes all of Python's text four times as large."""
    if (
        len(raw) <= LARGE
        or raw.isascii()
        or not (count := sum(raw.count(bytes((first,))) for first in range(0xF0, 0xF5)))
    ):
        return raw
    if count > MOST_WIDE:
        raise _too_much("characters beyond U+FFFF", count, MOST_WIDE)
    return WIDE.sub(_escaped, raw)


def _escaped(match: re.Match[bytes]) -> bytes:
    try:
        pair = match[0].decode().encode("utf-16-be")
    except UnicodeDecodeError:
        return match[0]
    return b"\\u%s\\u%s" % (pair[:2].hex().encode(), pair[2:].hex().encode())


def memory_of(value: Any) -> int:
    """About how many bytes a parsed body takes: one picture character in a text makes all of it four times as large."""
    size = sys.getsizeof(value)
    if type(value) is dict:
        size += sum(map(sys.getsizeof, value)) + sum(map(memory_of, value.values()))
    elif type(value) is list:
        size += sum(map(memory_of, value))
    return size


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


def _check_values(value: Any) -> None:
    if isinstance(value, str):
        _check_text(value)
    elif isinstance(value, dict):
        for key, item in value.items():
            _check_text(key)
            _check_values(item)
    elif isinstance(value, list):
        for item in value:
            _check_values(item)


def _check_text(text: str) -> None:
    if "\0" in text:
        raise FieldError("", "The body holds a NUL character, which no model can be given.", "Take it out.")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise FieldError(
            "", "The body holds half a surrogate pair, which is no text.", "Send whole characters."
        ) from None
