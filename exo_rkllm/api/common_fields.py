"""Pieces of a question and of an answer that several APIs share: fields, images, tools, usage, models."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from exo_rkllm.backends import base
from exo_rkllm.backends.base import Image, Timings, Tool, Usage
from exo_rkllm.catalogue.entry import Entry
from exo_rkllm.sampling import SAMPLING_NAMES, Sampling
from exo_rkllm.schema.specs import (
    Anything,
    Either,
    FieldError,
    FieldSpec,
    Free,
    List,
    ObjectSpec,
    Switch,
    TaggedSpec,
    Text,
    ValueSpec,
    Whole,
)

# Beside a count that an API demands and nobody counted; an addition of ours, as `timings` is.
ESTIMATED: Mapping[str, bool] = {"prompt_tokens_estimated": True}

# ── rows ─────────────────────────────────────────────────────────────────────────────────────────


def required(name: str, kind: ValueSpec, about: str) -> FieldSpec:
    return FieldSpec(name, kind, about, required=True)


def refused(name: str, about: str, why: str, *neutral: Any) -> FieldSpec:
    """A known field that cannot be honoured: its neutral values are taken, anything else is refused."""
    return FieldSpec(name, Anything(), about, neutral=neutral, why=why)


def dropped(name: str, about: str, why: str, *neutral: Any) -> FieldSpec:
    """A known field without which the answer means the same: other values are left out, listed, and logged."""
    return FieldSpec(name, Anything(), about, neutral=neutral, why=why, droppable=True)


def body(name: str, *fields: FieldSpec) -> ObjectSpec:
    return ObjectSpec(name, fields)


def text_or_parts(parts: Mapping[str, ObjectSpec], default: str = "") -> Either:
    """A message's content: a string, or a list of parts that are told apart by their type."""
    kind = TaggedSpec("type", parts, default)
    return Either((Text(), List(kind, most=1000)), "a string or a list of parts")


def tools(tool: ValueSpec) -> FieldSpec:
    return FieldSpec("tools", List(tool, most=256), "Up to 256 functions that the model may call.")


def tool_choice(named: ObjectSpec, allowed: ObjectSpec) -> FieldSpec:
    words = "none, auto, required, a named function, or the tools that are allowed"
    tables = {"function": named, "allowed_tools": allowed}
    kind = Either((Text(("none", "auto", "required")), TaggedSpec("type", tables)), words)
    return FieldSpec("tool_choice", kind, f"Whether the model calls functions: {words}.")


def allowed_tools(name: str, tool: ObjectSpec) -> ObjectSpec:
    return body(
        name,
        FieldSpec("mode", Text(("auto", "required")), "Whether one of them must be called."),
        required("tools", List(TaggedSpec("type", {"function": tool}, "function"), most=256), "The allowed tools."),
    )


def schema_format(name: str, *schema: FieldSpec) -> ObjectSpec:
    return body(
        name,
        FieldSpec("name", Text(most=256), "Name of the schema."),
        FieldSpec("description", Text(), "What the schema is for."),
        FieldSpec("strict", Switch(), "Has no effect: answers are checked against the schema in any case."),
        *schema,
    )


NAME = Text(least=1, most=256)
MOST_TOKENS = Whole(-1, 1 << 24)
DATA_URL_ABOUT = (
    "The image as a data URL: data:image/png;base64,... An http or https address is taken with [api] fetch_images."
)
NO_PROBABILITIES = "answers carry no probabilities"
LOGPROBS = (
    FieldSpec(
        "logprobs",
        Either((Switch(), Whole(0)), "true or false"),
        "Whether to return the log probabilities of the answer's tokens. They take another run over the conversation "
        "where the engine does not tell them, and have no effect in a stream.",
    ),
    FieldSpec("top_logprobs", Whole(), "How many of the likeliest tokens are returned at each place, up to 20."),
)
LORA = FieldSpec(
    "lora", Text(most=256), "Name of the adapter to answer with; MODEL:ADAPTER as the model means the same."
)

FORM_ABOUT = (
    "Form of the answer. The model is asked for it by prompt and, where that is possible, held to it while it answers; "
    "an answer that violates it is an error."
)
JSON_OR_TEXT = Either((Free(), Text(least=1)), "a JSON Schema, as an object or as JSON text")
CHOICES = List(Text(least=1, most=4000), least=1, most=1000)
GRAMMAR = Text(least=1, most=1 << 16)
EXPRESSION = Text(least=1, most=4000)
STRUCTURED_OUTPUTS = body(
    "StructuredOutputs",
    FieldSpec("json", JSON_OR_TEXT, "JSON Schema of the answer."),
    FieldSpec("json_object", Switch(), "Whether the answer is a JSON object."),
    FieldSpec("regex", EXPRESSION, "Regular expression that the whole answer matches."),
    FieldSpec("choice", CHOICES, "The answers to choose from."),
    FieldSpec("grammar", GRAMMAR, "Grammar of the answer, in GBNF or Lark's form."),
)
# vLLM's and llama.cpp's fields that change the answer: what cannot be honoured must not be swallowed.
CONSTRAINTS = (
    refused(
        "ignore_eos", "Whether to go on behind the end of the answer.", "an answer ends where the model ends it", False
    ),
    refused("min_tokens", "Fewest tokens of the answer.", "an answer ends where the model ends it", 0),
    FieldSpec("guided_json", JSON_OR_TEXT, "JSON Schema of the answer, as vLLM names it."),
    FieldSpec("guided_regex", EXPRESSION, "Regular expression that the whole answer matches."),
    FieldSpec("guided_choice", CHOICES, "The answers to choose from."),
    FieldSpec("guided_grammar", GRAMMAR, "Grammar of the answer, in GBNF or Lark's form."),
    FieldSpec("structured_outputs", STRUCTURED_OUTPUTS, "Form of the answer, in vLLM's newer words."),
    FieldSpec("grammar", Text(most=1 << 16), "Grammar of the answer in GBNF, in llama.cpp's words."),
    FieldSpec("json_schema", JSON_OR_TEXT, "JSON Schema of the answer, in llama.cpp's words."),
    refused("dry_multiplier", "Penalty for repeated passages.", "no engine here has it", 0),
    refused("xtc_probability", "Chance of leaving out the likeliest tokens.", "no engine here has it", 0),
)

MODEL = required("model", Text(least=1, most=512), "Name of the model, as GET /v1/models lists it.")
USER = FieldSpec("user", Text(most=1000), "Your own id of the user; it has no effect.")
STOP = FieldSpec(
    "stop",
    Either((Text(most=1000), List(Text(least=1, most=1000), most=64)), "a string or a list of strings"),
    "Up to 64 strings of up to 1000 characters; the answer ends before the first of them.",
)
EFFORT = Text(("none", "minimal", "low", "medium", "high", "xhigh", "max", "default"))
EFFORT_ABOUT = (
    "Whether the model thinks before it answers: none switches it off, default leaves it to the model, every other "
    "value switches it on."
)
PARALLEL_CALLS = FieldSpec(
    "parallel_tool_calls", Switch(), "Whether an answer may hold several tool calls; true by default."
)
FUNCTION = body(
    "Function",
    required("name", NAME, "Name by which the model calls the function."),
    FieldSpec("description", Text(), "What the function does, written for the model."),
    FieldSpec("parameters", Free(), "JSON Schema of the function's arguments."),
)
FUNCTION_TOOL = body("Tool", required("function", FUNCTION, "The function of this tool."))


def conversation(message: ValueSpec, least: int = 1) -> List:
    return List(message, least=least, most=4096)


# ── questions ────────────────────────────────────────────────────────────────────────────────────

IMAGE_HINT = "No image is fetched from outside: send it in the request, or set [api] fetch_images = true."
DATA_URL = re.compile(r"data:(image/[a-z0-9.+-]+);base64,", re.IGNORECASE | re.ASCII)


def sampling_of(values: Mapping[str, Any]) -> Sampling:
    """Fields named as in `Sampling`; what is absent stays the model's own default."""
    return Sampling(**{name: values[name] for name in SAMPLING_NAMES if name in values})


def max_tokens_of(value: int | None) -> int | None:
    """None for no limit, which clients also write as -1 or 0."""
    return value if value is not None and value > 0 else None


def stop_of(value: str | list[str] | None) -> tuple[str, ...]:
    return tuple(text for text in ([value] if isinstance(value, str) else value or ()) if text)


def content_of(value: str | list[dict[str, Any]], where: str) -> tuple[str, tuple[Image, ...]]:
    """Text and images of a message of OpenAI's, be it in parts of chat completions or of responses."""
    if isinstance(value, str):
        return value, ()
    return base.content_of((_part(part, f"{where}[{index}]") for index, part in enumerate(value)), "\n")


def _part(value: Mapping[str, Any], where: str) -> str | Image:
    if value["type"] == "image_url":
        return image_of(value["image_url"]["url"], f"{where}.image_url.url")
    if value["type"] == "input_image":
        return image_of(value["image_url"], f"{where}.image_url")
    return str(value.get("text", value.get("refusal", "")))


def image_of(url: str | Image, where: str) -> Image:
    """The image in a data URL; what was fetched already comes as it is."""
    if isinstance(url, Image):
        return url
    match = DATA_URL.match(url)
    if match is None:
        raise FieldError(where, f"{where} must be a data URL of an image in base64.", IMAGE_HINT)
    return Image(base64_bytes(url[match.end() :], where), match[1].lower())


def base64_bytes(text: str, where: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise FieldError(where, f"{where} is not base64.") from None


def tool_of(function: Mapping[str, Any], parameters: str = "parameters") -> Tool:
    return Tool(function["name"], function.get("description", ""), function.get(parameters, {}))


def tools_and_choice(
    tools: tuple[Tool, ...], value: str | Mapping[str, Any], name_of: Callable[[Mapping[str, Any]], str]
) -> tuple[tuple[Tool, ...], str]:
    """The tools that OpenAI's tool_choice leaves, and our word for it; `name_of` reads the name of a tool in it."""
    if isinstance(value, str):
        return tools, value
    if not tools:
        raise FieldError("tool_choice", "tool_choice names a function, and tools are missing.")
    if value["type"] == "function":
        return tools, name_of(value)
    allowed = value.get("allowed_tools", value)
    names = {name_of(tool) for tool in allowed["tools"]}
    return tuple(tool for tool in tools if tool.name in names), allowed.get("mode", "auto")


def thinking_of(effort: str | None) -> bool | None:
    """OpenAI's degrees; None leaves it to the model."""
    return None if effort in (None, "default") else effort != "none"


# ── answers ──────────────────────────────────────────────────────────────────────────────────────


def arguments_of(text: str) -> dict[str, Any]:
    """What a model wrote as a call's arguments, for APIs that want an object."""
    try:
        value = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {"_raw": text}
    return value if isinstance(value, dict) else {"_raw": text}


def milliseconds(timings: Timings) -> dict[str, float]:
    """An addition of ours to usage; clients that do not know it leave it alone."""
    return {
        "queued_ms": round(timings.queued * 1e3, 3),
        "load_ms": round(timings.load * 1e3, 3),
        "prefill_ms": round(timings.prefill * 1e3, 3),
        "decode_ms": round(timings.decode * 1e3, 3),
        **({"encode_ms": round(timings.encode * 1e3, 3)} if timings.encode else {}),
    }


def total(usages: Iterable[Usage]) -> Usage:
    usages = list(usages)
    return Usage(
        sum(usage.prompt for usage in usages),
        sum(usage.cached for usage in usages),
        sum(usage.completion for usage in usages),
        guessed=any(usage.guessed for usage in usages),
        counted=all(usage.counted for usage in usages),
    )


def modified_seconds(entry: Entry) -> float:
    """When the model's folder last changed, in seconds since the epoch; 0 where it cannot be read."""
    try:
        return entry.folder.stat().st_mtime
    except OSError:
        return 0.0
