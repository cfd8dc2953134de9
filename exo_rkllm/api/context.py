"""What an endpoint works with: the daemon's parts, the settings of the moment, the caller, and its row of the table.

The composition root (daemon/web.py) builds `ApiContext`; the languages fill the route table with `Endpoint` rows.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeAlias, TypeVar

from aiohttp import web

from exo_rkllm.api.bodies import Bodies
from exo_rkllm.api.faults import Language
from exo_rkllm.api.rights import Right, includes, right_of
from exo_rkllm.api.status_models import ModelRows
from exo_rkllm.backends.base import JSON, Model
from exo_rkllm.backends.registry import EngineSpec
from exo_rkllm.board.history import HistoryPoint
from exo_rkllm.catalogue.downloads import Downloads
from exo_rkllm.catalogue.entry import Entry
from exo_rkllm.catalogue.model_tokenizers import ModelTokenizers
from exo_rkllm.catalogue.progress import PullProgress
from exo_rkllm.catalogue.store import Catalogue
from exo_rkllm.config import ApiSettings
from exo_rkllm.dispatch.dispatcher import Dispatcher
from exo_rkllm.schema.specs import FieldError, ObjectSpec

if TYPE_CHECKING:
    from exo_rkllm.catalogue.gallery import GalleryItem

FIELD_PATH = re.compile(r"[A-Za-z0-9._-]{1,80}", re.ASCII)
# More ignored fields than these are not listed in the header.
MOST_IGNORED = 20
IGNORED_LOG_SECONDS = 60.0

P = ParamSpec("P")
T = TypeVar("T")
Plain: TypeAlias = Mapping[str, JSON]


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key; `control` allows what changes the daemon for everybody: pull, load, unload, delete."""

    name: str
    secret: str
    control: bool = False


@dataclass(frozen=True, slots=True)
class ApiServerSettings:
    """The section [api] and the keys it leads to; SIGHUP brings new ones.

    `loopback` says that every listener is bound to a loopback address or a Unix socket.
    """

    config: ApiSettings = field(default_factory=ApiSettings)
    keys: tuple[ApiKey, ...] = ()
    loopback: bool = True

    def needs_key(self, *, from_loopback: bool) -> bool:
        """Whether who calls from there has to show a key. Keys count on every listener, unless that is waived."""
        if self.config.allow_anonymous:
            return False
        return not (from_loopback and self.config.loopback_open) if self.keys else not self.loopback


class IgnoredLog:
    """Logs what requests set in vain, at most one line a minute: clients send the same with every request."""

    def __init__(self) -> None:
        self._next = 0.0

    def info(self, line: str) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + IGNORED_LOG_SECONDS
            logging.getLogger("exo_rkllm.api").info("%s", line)


@dataclass(frozen=True, slots=True)
class ApiContext:
    """`board` gives facts and readings as plain values; whoever reads them again and again holds `watch`.

    `history` gives the board's last hour.

    `metrics` takes the request's Accept header and gives the page and its type; `pull` takes ORG/REPO[:FILE].
    `gallery` searches the Hub for what fits the board; `downloads` are the pulls that go on by themselves.
    `engine_spec` tells what a model's engine takes; without one, engines refuse for themselves.
    """

    dispatcher: Dispatcher
    catalogue: Catalogue
    settings: Callable[[], ApiServerSettings] = ApiServerSettings
    pull: Callable[[str], AsyncGenerator[PullProgress, None]] | None = None
    gallery: Callable[[str], Awaitable[Sequence[GalleryItem]]] | None = None
    downloads: Downloads | None = None
    metrics: Callable[[str], tuple[bytes, str]] | None = None
    board: Callable[[], Plain] = dict
    watch: Callable[[], AbstractContextManager[Any]] = nullcontext
    history: Callable[[], Sequence[HistoryPoint]] = tuple
    cluster: Callable[[], Plain] = dict
    node_id: Callable[[], str] | None = None
    engine_spec: Callable[[Model], EngineSpec] | None = None
    ignored_log: IgnoredLog = field(default_factory=IgnoredLog)
    bodies: Bodies = field(default_factory=Bodies)
    rows: ModelRows = field(default_factory=ModelRows)
    tokenizers: ModelTokenizers = field(default_factory=ModelTokenizers)


@dataclass(frozen=True, slots=True)
class Caller:
    """`client` is whom the queue is fair to: a key where one was sent, otherwise an address."""

    client: str
    right: Right = "ask"

    def may(self, right: Right) -> bool:
        return includes(self.right, right)


@dataclass(frozen=True, slots=True)
class Call:
    """One admitted request. `values` holds the fields of its body that the endpoint's table lists, checked.

    `ignored` names the fields that have no effect on the answer; `large` says that the body was read beside the loop.
    """

    context: ApiContext
    request: web.Request
    caller: Caller
    id: str
    values: Mapping[str, Any]
    common_headers: Mapping[str, str]
    ignored: list[str]
    large: bool = False

    async def compute(self, function: Callable[P, T], *args: P.args, **keywords: P.kwargs) -> T:
        """What the function makes of the body's values, beside the loop where there are many of them."""
        if not self.large:
            return function(*args, **keywords)
        return await self.context.bodies.compute(function, *args, **keywords)

    @property
    def headers(self) -> dict[str, str]:
        """Those of every answer, streams included, as they are when it begins."""
        names = [name for name in self.ignored if FIELD_PATH.fullmatch(name)][:MOST_IGNORED]
        return {**self.common_headers, **({"X-Ignored-Fields": ", ".join(names)} if names else {})}

    def entry(self, name: str = "") -> Entry:
        """The catalogue's entry of that model, by default of the one in the path; raises ModelNotFound.

        An adapter that the name ends in (`MODEL:ADAPTER`) is not told here but by `adapter`.
        """
        return self.context.catalogue.resolve_adapter(name or self.request.match_info.get("model", ""))[0]

    def adapter(self) -> str:
        """The LoRA adapter that the request names: in its field `lora`, or behind the model's name. Empty for none.

        Raises a FieldError for one that the model does not have.
        """
        name = self.values.get("model") or self.request.match_info.get("model", "")
        if ":" not in name and not self.values.get("lora"):
            return ""
        entry, adapter = self.context.catalogue.resolve_adapter(name)
        chosen: str = self.values.get("lora") or adapter
        if chosen and chosen not in entry.adapters:
            known = ", ".join(entry.adapters) or "none"
            raise FieldError("lora", f"{entry.id} has no adapter {chosen!a}.", f"It has: {known}.")
        return chosen


Handler: TypeAlias = Callable[[Call], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A row of the route table. `body` is None where none is read.

    `content_type` and `stream_type` (of an answer that streams) are for the OpenAPI document.
    """

    method: Literal["GET", "POST", "DELETE", "HEAD"]
    path: str
    handler: Handler
    about: str
    language: Language = "openai"
    body: ObjectSpec | None = None
    content_type: str = "application/json"
    stream_type: str = ""

    @property
    def right(self) -> Right:
        return right_of(self.method, self.path)
