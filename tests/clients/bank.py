"""Requests as unmodified clients send them, kept as data (`bodies/*.json`), and what each answer has to show.

A file is one client or habit: a list of cases. `$36_tools` stands for Open WebUI's built-in tools, which
`open_webui_tools` makes as many and as large as theirs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BODIES = Path(__file__).parent / "bodies"


@dataclass(frozen=True)
class Case:
    """One request and its expectations.

    `ignored` are fields that X-Ignored-Fields must name. `json` maps a path in the answer (`a/0/b`) to its value, or to
    null where it only has to be something; `text` must be somewhere in the answer.
    """

    name: str
    path: str
    method: str = "POST"
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    status: int = 200
    ignored: tuple[str, ...] = ()
    json: Mapping[str, Any] = field(default_factory=dict)
    text: str = ""
    answer_headers: Mapping[str, str] = field(default_factory=dict)
    only: tuple[str, ...] = ()  # runtimes that it is for; all where empty
    needs: str = ""  # a Python package


def cases() -> Iterator[Case]:
    for file in sorted(BODIES.glob("*.json")):
        for row in json.loads(file.read_text()):
            row["name"] = f"{file.stem}: {row['name']}"
            row["body"] = with_tools(row.get("body"))
            for key in ("ignored", "only"):
                row[key] = tuple(row.get(key, ()))
            yield Case(**row)


def with_tools(body: Any) -> Any:
    if isinstance(body, dict) and body.get("tools") == "$36_tools":
        return {**body, "tools": open_webui_tools()}
    return body


def open_webui_tools() -> list[dict[str, Any]]:
    """36 tools with 25 kB of JSON, as Open WebUI offers them with every question."""
    verbs, things = (
        ("list", "view", "search", "write", "replace", "delete"),
        (*("notes", "chats", "channels", "memories", "knowledge", "skills"),),
    )
    return [_tool(verb, thing) for verb in verbs for thing in things]


def _tool(verb: str, thing: str) -> dict[str, Any]:
    about = f"The words to {verb} by, as the person wrote them, without quotes and without a full stop at the end."
    properties = {
        "query": {"type": "string", "description": about},
        "count": {"type": "integer", "description": f"Most {thing} that come back; ten where it is left out."},
        "after": {"type": "string", "description": "Only what changed after this moment, as seconds since 1970."},
    }
    description = (
        f"{verb.capitalize()} the {thing} of the person who asks. Use it where the question speaks of {thing}."
    )
    parameters = {"type": "object", "properties": properties, "required": ["query"]}
    return {
        "type": "function",
        "function": {"name": f"{verb}_{thing}", "description": description, "parameters": parameters},
    }


def at(value: Any, path: str) -> Any:
    """What stands in an answer under a path with slashes; numbers are places in lists."""
    for part in path.split("/"):
        value = value[int(part)] if isinstance(value, list) else value[part]
    return value
