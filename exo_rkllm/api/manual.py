"""docs/api.md, written from the tables: `python -m exo_rkllm.api.manual > docs/api.md`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator

from exo_rkllm.api.application import endpoints
from exo_rkllm.api.endpoint import Endpoint
from exo_rkllm.api.openapi import plain_path
from exo_rkllm.schema.specs import (
    Anything,
    Either,
    FieldSpec,
    List,
    ObjectSpec,
    Switch,
    TaggedSpec,
    Text,
    ValueSpec,
    Whole,
)
from exo_rkllm.schema.specs import Number as Ranged

INTRODUCTION = """\
# The HTTP API

The daemon answers on port 52415, on loopback unless the configuration says otherwise. Any OpenAI, Anthropic or Ollama
client works when it is pointed there:

| client | setting |
|---|---|
| OpenAI | `base_url = "http://localhost:52415/v1"`, any key |
| Anthropic | `base_url = "http://localhost:52415"`, any key |
| Ollama | `OLLAMA_HOST=http://localhost:52415` |

Off loopback a key of `[api] keys` is needed, as `Authorization: Bearer KEY` or `x-api-key: KEY`. What changes the
daemon for everybody (pull, delete, load, unload) needs a key with the right to control, or the command line.

* Every answer has an `X-Request-Id`; one that the client sends is taken over.
* Errors have the shape of the API that was called, and always a sentence and what to do about it. A full queue is a
  503 with `Retry-After`.
* A parameter that cannot be honoured is refused by name; one that nobody here knows is left alone, and listed in the
  answer's `X-Ignored-Fields`.
* A client that hangs up ends its own run at once, and no other.
* The runtime tells how many prompt tokens it computed (in its statistics; before 1.2.1 in its log), but not how many
  its cache already held. A prompt's length is therefore exact on an empty cache and for a prompt that was counted
  before; otherwise it is an estimate, and `usage` says `"prompt_tokens_estimated": true`. Prompt minus cached tokens is
  exact either way. Where the runtime counted nothing, the estimate is made from the text's length, cached tokens are
  left out, and so is Ollama's `prompt_eval_count`.

The same as an OpenAPI document: `GET /openapi.json`. This page is written from the tables that check requests.
"""
TITLES = {"openai": "OpenAI, and the daemon itself", "anthropic": "Anthropic", "ollama": "Ollama"}
RIGHTS = {"open": "anybody", "use": "who may ask", "control": "who may control"}


def manual(rows: Iterable[Endpoint]) -> str:
    rows = tuple(rows)
    parts = [INTRODUCTION]
    for language, title in TITLES.items():
        mine = [row for row in rows if row.language == language]
        parts.append(f"\n## {title}\n\n| endpoint | | for |\n|---|---|---|\n")
        parts += [f"| `{row.method} {plain_path(row)}` | {row.about} | {RIGHTS[row.right]} |\n" for row in mine]
        for row in mine:
            if row.body is not None:
                parts.append(f"\n### {row.method} {plain_path(row)}\n\n| field | type | |\n|---|---|---|\n")
                parts += list(_fields(row.body))
    return "".join(parts)


def _fields(table: ObjectSpec) -> Iterator[str]:
    for field in table.fields:
        name = f"**{field.name}**" if field.required else field.name
        yield f"| {name} | {_kind(field.kind)} | {_about(field)} |\n"


def _about(field: FieldSpec) -> str:
    if field.neutral is None:
        return field.about
    allowed = ", ".join(f"`{json.dumps(one)}`" for one in field.neutral) or "no value"
    return f"{field.about} Takes {allowed} only: {field.why}."


def _kind(kind: ValueSpec) -> str:
    match kind:
        case Text(values=values) if values:
            return ", ".join(f"`{value}`" for value in values if value)
        case Text():
            return "string"
        case Whole():
            return "whole number"
        case Ranged(low=low, high=high):
            return f"{low:g} to {high:g}"
        case Switch():
            return "true, false"
        case List(of=of):
            return f"list of {_kind(of)}"
        case Either(what=what):
            return what
        case TaggedSpec(tables=tables):
            return "object: " + ", ".join(tables)
        case Anything():
            return "any"
        case _:
            return "object"


if __name__ == "__main__":
    sys.stdout.write(manual(endpoints()))
