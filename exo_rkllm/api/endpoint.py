"""A row of the route table, and what its handler is called with."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from aiohttp import web

from exo_rkllm.api.caller import Caller
from exo_rkllm.api.context import ApiContext
from exo_rkllm.api.faults import Language
from exo_rkllm.schema.specs import ObjectSpec

# `open`: anybody who reaches the port; `use`: whoever may ask models; `control`: whoever may change the daemon.
Right: TypeAlias = Literal["open", "use", "control"]


@dataclass(frozen=True, slots=True)
class Call:
    """One request that was let in: its body is checked, and `values` holds what the endpoint's table knows of it."""

    parts: ApiContext
    request: web.Request
    caller: Caller
    id: str
    values: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The model in the path."""
        return self.request.match_info.get("model", "")


Handler: TypeAlias = Callable[[Call], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """`body` is None where none is read. `answer` and `streams` are for the document."""

    method: Literal["GET", "POST", "DELETE", "HEAD"]
    path: str
    handler: Handler
    about: str
    language: Language = "openai"
    right: Right = "use"
    body: ObjectSpec | None = None
    query: tuple[str, ...] = ()
    content_type: str = "application/json"
    streams: str = ""  # the other content type that an answer may have
    statuses: tuple[int, ...] = ()
