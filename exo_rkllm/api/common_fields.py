"""Pieces of a question that several APIs share: sampling fields, stop strings, images, models, pace."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from typing import Any

from exo_rkllm.api.endpoint import Call
from exo_rkllm.backends.base import Image, Sampling, Timings, Tool, Usage
from exo_rkllm.catalogue.store import Entry
from exo_rkllm.errors import NotSupported
from exo_rkllm.schema.specs import Either, FieldError, FieldSpec, Free, List, Number, ObjectSpec, Text, Whole

# Beside a count that an API demands and nobody counted; an addition of ours, as `timings` is.
GUESSED: Mapping[str, bool] = {"prompt_tokens_estimated": True}
LONGEST_ANSWER = 1 << 24
MOST_MESSAGES = 4096
MOST_TOOLS = 256

MODEL = FieldSpec("model", Text(least=1, most=512), "The model's name, as GET /v1/models lists it.", required=True)
TEMPERATURE = FieldSpec("temperature", Number(0, 2), "0 picks the likeliest token; higher is more varied.")
TOP_P = FieldSpec("top_p", Number(0, 1), "Only the likeliest tokens that together have this probability.")
TOP_K = FieldSpec("top_k", Whole(0), "Only so many of the likeliest tokens.")
FREQUENCY = FieldSpec("frequency_penalty", Number(-2, 2), "Against tokens by how often they were said.")
PRESENCE = FieldSpec("presence_penalty", Number(-2, 2), "Against tokens that were said at all.")
REPEAT = FieldSpec("repeat_penalty", Number(0, 10), "Against repetition: 1 is none. The vendor's own parameter.")
SEED = FieldSpec("seed", Whole(-(2**63), 2**63 - 1), "Refused by engines that take none; librkllmrt takes none.")
STOP = FieldSpec(
    "stop",
    Either((Text(most=1000), List(Text(least=1, most=1000), most=64)), "a string or a list of strings"),
    "The answer ends before the first of these.",
)
# JSON names that differ from those of `Sampling`.
SAMPLING: tuple[FieldSpec, ...] = (TEMPERATURE, TOP_P, TOP_K, FREQUENCY, PRESENCE, REPEAT, SEED)
FUNCTION = ObjectSpec(
    "Function",
    (
        FieldSpec("name", Text(least=1, most=256), "What the model calls it.", required=True),
        FieldSpec("description", Text(), "What it does, for the model."),
        FieldSpec("parameters", Free(), "JSON Schema of its arguments."),
    ),
)
NOT_FETCHED = "No image is fetched from outside, and a model that does not see takes none at all."
DATA_URL = re.compile(r"data:(image/[a-z0-9.+-]+);base64,", re.IGNORECASE | re.ASCII)


def sampling_of(values: Mapping[str, Any]) -> Sampling:
    """Fields named as in `Sampling`; what is absent stays the model's own default."""
    return Sampling(**{name: values[name] for name in Sampling.__dataclass_fields__ if name in values})


def stop_of(value: str | list[str] | None) -> tuple[str, ...]:
    return tuple(text for text in ([value] if isinstance(value, str) else value or ()) if text)


def entry_of(call: Call, name: str) -> Entry:
    """The catalogue's entry, so that an unknown name is refused before anything else is done for it."""
    return call.parts.catalogue.resolve(name)


def image_of(url: str, where: str) -> Image:
    """Images come with the request: nothing is fetched from the network at serve time."""
    found = DATA_URL.match(url)
    if found is None:
        raise FieldError(where, f"{where} must be a data URL of an image in base64.", NOT_FETCHED)
    return Image(decoded(url[found.end() :], where), found[1].lower())


def decoded(text: str, where: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise FieldError(where, f"{where} is not base64.") from None


def tool_of(function: Mapping[str, Any], parameters: str = "parameters") -> Tool:
    return Tool(function["name"], function.get("description", ""), function.get(parameters, {}))


def arguments_of(text: str) -> dict[str, Any]:
    """What a model wrote as a call's arguments, for APIs that want an object."""
    try:
        value = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {"_raw": text}
    return value if isinstance(value, dict) else {"_raw": text}


def no_room_for(what: str, why: str) -> NotSupported:
    return NotSupported(f"{what} is not supported here: {why}.", "Leave it out.")


def milliseconds(timings: Timings) -> dict[str, float]:
    """An addition of ours to usage; clients that do not know it leave it alone."""
    return {
        "queued_ms": round(timings.queued * 1e3, 3),
        "load_ms": round(timings.load * 1e3, 3),
        "prefill_ms": round(timings.prefill * 1e3, 3),
        "decode_ms": round(timings.decode * 1e3, 3),
    }


def total(usages: list[Usage]) -> Usage:
    return Usage(
        sum(one.prompt for one in usages),
        sum(one.cached for one in usages),
        sum(one.completion for one in usages),
        guessed=any(one.guessed for one in usages),
        counted=all(one.counted for one in usages),
    )
