"""Request bodies of somebody who means harm: large, deep, wide, and wrong in every way that costs time or memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

MEGABYTE = 1 << 20
NEARLY_ALL = 7_900_000  # of the 8 MB that a body may have
OPENAI, RESPONSES, ANTHROPIC, OLLAMA = "/v1/chat/completions", "/v1/responses", "/v1/messages", "/api/chat"
COMPLETION, EMBEDDING, GENERATE = "/v1/completions", "/v1/embeddings", "/api/generate"

USER = {"role": "user", "content": "x"}


def talk(**fields: Any) -> bytes:
    return json.dumps({"model": "words", "max_tokens": 5, "messages": [USER], **fields}, ensure_ascii=False).encode()


def around(field: bytes) -> bytes:
    """A conversation with one more member, written by hand."""
    return talk()[:-1] + b", " + field + b"}"


def form(schema: Any) -> bytes:
    return talk(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}})


def many(part: bytes, size: int = NEARLY_ALL) -> bytes:
    """A list of the part, of so many bytes."""
    return b'"extra": [' + part + (b"," + part) * (size // (len(part) + 1)) + b"]"


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
PART = {"type": "text", "text": "x"}

# Where it is sent, and what makes it: all of them together would take half a gigabyte.
BODIES: Mapping[str, tuple[str, Callable[[], bytes]]] = {
    "empty objects": (OPENAI, lambda: around(many(b"{}"))),
    "empty lists": (OLLAMA, lambda: around(many(b"[]"))),
    "empty strings": (ANTHROPIC, lambda: around(many(b'""'))),
    "small numbers": (RESPONSES, lambda: around(many(b"1"))),
    "small fractions": (OPENAI, lambda: around(many(b"1.5e3"))),
    "names": (OLLAMA, lambda: around(b'"extra": {' + b",".join(b'"%d":0' % n for n in range(700_000)) + b"}")),
    "one name again and again": (OPENAI, lambda: around(b'"extra": {' + b'"a":0,' * 1_300_000 + b'"a":0}')),
    "long integers": (OPENAI, lambda: around(many(b"9" * 4000))),
    "one endless integer": (OPENAI, lambda: around(b'"seed": ' + b"9" * NEARLY_ALL)),
    "one endless fraction": (OPENAI, lambda: around(b'"temperature": 0.' + b"1" * NEARLY_ALL)),
    "lists in lists": (OPENAI, lambda: around(b'"extra": ' + b"[" * 100_000 + b"]" * 100_000)),
    "lists in lists, not closed": (OLLAMA, lambda: b"[" * NEARLY_ALL),
    "objects in objects": (ANTHROPIC, lambda: around(b'"extra": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000)),
    "quotes": (OPENAI, lambda: b'"' * NEARLY_ALL),
    "escaped quotes": (OPENAI, lambda: around(b'"extra": "' + b'\\"' * (NEARLY_ALL // 2) + b'"')),
    "backslashes": (OLLAMA, lambda: around(b'"extra": "' + b"\\" * (NEARLY_ALL // 2 * 2) + b'"')),
    "escaped letters": (OPENAI, lambda: around(b'"extra": "' + b"\\u0061" * (NEARLY_ALL // 6) + b'"')),
    "half characters": (OPENAI, lambda: around(b'"extra": "' + b"\\ud800" * (NEARLY_ALL // 6) + b'"')),
    "zeros": (OPENAI, lambda: around(b'"extra": "' + b"\\u0000" * (NEARLY_ALL // 6) + b'"')),
    "spaces": (OPENAI, lambda: around(b" " * NEARLY_ALL + b'"extra": 1')),
    "a comma too many": (OPENAI, lambda: around(many(b"1", 90_000) + b",")),
    "no UTF-8": (OPENAI, lambda: talk(extra="x" * NEARLY_ALL)[:-3] + b'\xff"}'),
    "pictures in a text": (OPENAI, lambda: talk(extra="x" * 7_000_000 + "\U0001f600")),
    "pictures everywhere": (OPENAI, lambda: talk(extra="x\U0001f600" * 1_500_000)),
    "as many pictures as may be": (OLLAMA, lambda: talk(extra="x" * 6_000_000 + "x\U0001f600" * 240_000)),
    "a long question": (OPENAI, lambda: talk(messages=[{"role": "user", "content": "word " * 1_500_000}])),
    "a long prompt": (COMPLETION, lambda: talk(prompt="word " * 1_500_000)),
    "many messages": (OPENAI, lambda: talk(messages=[USER] * 200_000)),
    "as many messages as may be": (OPENAI, lambda: talk(messages=[USER] * 3000)),
    "many parts": (OPENAI, lambda: talk(messages=[{"role": "user", "content": [PART] * 990}] * 3)),
    "many tools": (OPENAI, lambda: talk(tools=[TOOL] * 100_000)),
    "many prompts": (COMPLETION, lambda: talk(prompt=["x"] * 50_000)),
    "many texts": (EMBEDDING, lambda: talk(input=["x"] * 1_000_000)),
    "many ids": (EMBEDDING, lambda: talk(input=list(range(1_000_000)))),
    "many stop texts": (OPENAI, lambda: talk(stop=["x"] * 1_000_000)),
    "a deep schema": (OPENAI, lambda: form(nested(20))),
    "a deeper schema": (RESPONSES, lambda: talk(input="x", text={"format": {"type": "json_schema", "name": "x",
        "schema": nested(90)}})),
    "a wide schema": (OPENAI, lambda: form({"properties": {f"a{number}": {} for number in range(300_000)}})),
    "as wide a schema as may be": (OLLAMA, lambda: talk(format={"properties": {f"a{n}": {} for n in range(3000)}})),
    "a schema of alternatives": (OPENAI, lambda: form({"enum": list(range(1_000_000))})),
    "a schema in a circle": (OPENAI, lambda: form({"anyOf": [{"$ref": "#"}] * 1500})),
    "a schema of long references": (OPENAI, lambda: form({"anyOf": [{"$ref": "#/" + "a/" * 2000}] * 1500})),
    "a picture that is none": (OPENAI, lambda: talk(messages=[{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 7_000_000}}]}])),
    "a prompt of zeros": (GENERATE, lambda: talk(prompt="\x00" * MEGABYTE)),
    "too large": (OPENAI, lambda: talk(extra="x" * 31_000_000)),
}  # fmt: skip
