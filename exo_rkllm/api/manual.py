"""Generate docs/api.md from the tables: `python -m exo_rkllm.api.manual > docs/api.md`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator

from exo_rkllm.api.application import endpoints
from exo_rkllm.api.context import Endpoint
from exo_rkllm.api.openapi import plain_path
from exo_rkllm.api.rights import ACTIONS, DEFAULT, HOLDERS, ROUTES
from exo_rkllm.schema.specs import (
    Anything,
    Either,
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

The daemon listens on port 52415, on loopback by default. Point any OpenAI, Anthropic or Ollama client at it:

| client | setting |
|---|---|
| OpenAI | `base_url = "http://localhost:52415/v1"`, any key |
| Anthropic | `base_url = "http://localhost:52415"`, any key |
| Ollama | `OLLAMA_HOST=http://localhost:52415` |

As soon as there are API keys (`[api] keys`), requests need one, on loopback too, as `Authorization: Bearer KEY` or
`x-api-key: KEY`; `[api] loopback_open` exempts loopback. Without keys the daemon serves loopback only, unless
`[api] allow_anonymous` opens it. Endpoints that change the daemon for everyone (pull, delete, load, unload) need a key
with the right to control; the command line can always use them. Ollama's ways to load and unload (an empty question,
`keep_alive`) need that right, too, or a caller on loopback while there are no keys. The tables below name the right
that each endpoint needs; [security.md](security.md#rights-of-the-api) says who has it.

* Every response has an `X-Request-Id`, which is the client's own if it sent one.
* Errors have the format of the API that was called, and always contain a sentence and a hint. A full queue answers 503
  with `Retry-After`.
* What has no effect on the answer is ignored and listed in the response's `X-Ignored-Fields`: unknown parameters,
  sampling settings that the model's engine does not take or its runtime fixed at load, thinking and tools of a model
  that has neither, and a `keep_alive` that the client may not set. `strict = true` under `[api]` refuses known
  parameters of that kind. A parameter whose effect would change the meaning of the answer is refused by name.
* When a client disconnects, its own run ends at once, and no other.
* The runtime reports how many prompt tokens it computed (in its statistics; before 1.2.1 in its log), but not how
  many its cache already held. The length of a prompt is therefore exact on an empty cache and for a prompt that was
  counted before. Otherwise it is an estimate, and `usage` contains `"prompt_tokens_estimated": true`. The difference
  between prompt and cached tokens is exact either way. If the runtime counted nothing, the estimate is based on the
  length of the text, and cached tokens and Ollama's `prompt_eval_count` are omitted.

`GET /openapi.json` returns the same as an OpenAPI document. This page is generated from the tables that check requests.
"""
TITLES = {"openai": "OpenAI, and the daemon itself", "anthropic": "Anthropic", "ollama": "Ollama"}


def manual(rows: Iterable[Endpoint]) -> str:
    rows = tuple(rows)
    parts = [INTRODUCTION]
    for language, title in TITLES.items():
        mine = [row for row in rows if row.language == language]
        parts.append(f"\n## {title}\n\n| endpoint | what it does | right |\n|---|---|---|\n")
        parts += [f"| `{row.method} {plain_path(row.path)}` | {row.about} | `{row.right}` |\n" for row in mine]
        for row in mine:
            if row.body is not None:
                parts.append(
                    f"\n### {row.method} {plain_path(row.path)}\n\n| field | type | meaning |\n|---|---|---|\n"
                )
                parts += list(_fields(row.body))
    return "".join(parts)


def rights_table() -> str:
    """The table of rights, for docs/security.md."""
    rows = ["| right | who holds it | what needs it |", "|---|---|---|"]
    for right, holders in HOLDERS.items():
        routes = [f"`{plain_path(route)}`" for route, needed in ROUTES.items() if needed == right]
        actions = [
            f"{action.about} (without the right it {action.without})" for action in ACTIONS if action.right == right
        ]
        needs = [*(["everything else"] if right == DEFAULT else []), *([", ".join(routes)] if routes else [])]
        rows.append(f"| `{right}` | {holders} | {'; '.join([*needs, *actions])} |")
    return "\n".join(rows) + "\n"


def _fields(table: ObjectSpec) -> Iterator[str]:
    for field in table.fields:
        name = f"**{field.name}**" if field.required else field.name
        if field.neutral is None:
            yield f"| {name} | {_kind(field.kind)} | {field.about} |\n"
        else:
            only = ", ".join(f"`{json.dumps(value)}`" for value in field.neutral) or "none"
            yield f"| {name} | {only} | {field.about} {field.consequence} |\n"


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
