"""What the faces need, and nothing else: the composition root builds it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeAlias

from exo_rkllm.backends.base import JSON
from exo_rkllm.catalogue.progress import PullProgress
from exo_rkllm.catalogue.store import Catalogue
from exo_rkllm.dispatch.dispatcher import Dispatcher

Plain: TypeAlias = Mapping[str, JSON]


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key; `control` allows what changes the daemon for everybody: pull, load, unload, delete."""

    name: str
    secret: str
    control: bool = False


@dataclass(frozen=True, slots=True)
class ApiServerSettings:
    """Who may call, and how much of them is taken at a time; SIGHUP brings new ones.

    `loopback` says that every listener is bound to a loopback address or a Unix socket.
    """

    keys: tuple[ApiKey, ...] = ()
    loopback: bool = True
    allow_anonymous: bool = False
    hosts: frozenset[str] = frozenset()  # names under which a loopback listener may be called, besides localhost
    origins: frozenset[str] = frozenset()  # web pages of other origins that may call; "*" is any
    body_bytes: int = 32 << 20
    body_seconds: float = 30.0
    idle_seconds: float = 60.0  # how long a client may take nothing of its answer

    @property
    def needs_key(self) -> bool:
        return not self.loopback and not self.allow_anonymous


def _unknown() -> Plain:
    return {}


@dataclass(frozen=True, slots=True)
class ApiContext:
    """`board` gives facts and readings as plain values (`gauges`); whoever asks again and again holds `watch`.

    `metrics` takes the request's Accept header and gives the page and its type; `pull` takes ORG/REPO[:FILE].
    """

    dispatcher: Dispatcher
    catalogue: Catalogue
    settings: Callable[[], ApiServerSettings] = ApiServerSettings
    pull: Callable[[str], AsyncGenerator[PullProgress, None]] | None = None
    metrics: Callable[[str], tuple[bytes, str]] | None = None
    board: Callable[[], Plain] = _unknown
    watch: Callable[[], AbstractContextManager[Any]] = nullcontext
    cluster: Callable[[], Plain] = _unknown
    node_id: Callable[[], str] | None = None
