"""The one table of rights: which right each route and each action within a request needs, and who holds it.

`Endpoint.right`, docs/api.md and docs/security.md are read from here. A route without a row needs `DEFAULT`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

Right: TypeAlias = Literal["open", "ask", "load", "control"]
# In rising order, each with its holders; whoever has a right has those before it.
HOLDERS: Mapping[Right, str] = {
    "open": "everyone who reaches the port",
    "ask": "holders of a key; all on loopback without keys or with `loopback_open`; everyone with `allow_anonymous`",
    "load": "holders of a `control` key; without keys everyone on loopback",
    "control": "holders of a `control` key",
}
ORDER: tuple[Right, ...] = tuple(HOLDERS)
DEFAULT: Right = "ask"

ROUTES: Mapping[str, Right] = {
    "GET /": "open",
    "HEAD /": "open",
    "GET /icon.svg": "open",
    "GET /page/{file:.+}": "open",
    "GET /openapi.json": "open",
    "GET /healthz": "open",
    "GET /readyz": "open",
    "GET /node_id": "open",
    "GET /health": "open",
    "GET /v1/health": "open",
    "GET /ping": "open",
    "GET /api/version": "open",
    "POST /v1/models/{model:.+}/load": "control",
    "POST /v1/models/{model:.+}/unload": "control",
    "POST /v1/gallery": "load",
    "POST /v1/pulls": "control",
    "POST /v1/pulls/pause": "control",
    "POST /v1/pulls/cancel": "control",
    "DELETE /api/delete": "control",
    "POST /api/create": "control",
    "POST /api/copy": "control",
    "POST /api/push": "control",
}


@dataclass(frozen=True, slots=True)
class Action:
    """What a request may want beyond its route's purpose, and the right that this takes."""

    about: str
    right: Right
    without: str


LOAD_OR_UNLOAD = Action(
    "an empty question to `/api/generate` or `/api/chat`, as from `ollama stop`: load or unload a model",
    "load",
    "is refused",
)
KEEP_ALIVE = Action(
    "`keep_alive` in a question: unload a model early, or keep it loaded",
    "load",
    "is ignored and listed in `X-Ignored-Fields`, or refused with `[api] strict`",
)
PULL = Action("`/api/pull` of a model that is not here", "control", "is refused")
ACTIONS = (LOAD_OR_UNLOAD, KEEP_ALIVE, PULL)


def right_of(method: str, path: str) -> Right:
    """The right that a route needs."""
    return ROUTES.get(f"{method} {path}", DEFAULT)


def includes(held: Right, needed: Right) -> bool:
    """Whether who holds the one right has the other."""
    return ORDER.index(held) >= ORDER.index(needed)
