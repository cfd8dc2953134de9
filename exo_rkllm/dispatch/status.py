"""What dispatch tells of itself, as frozen values; moments are seconds since the epoch."""

from __future__ import annotations

from dataclasses import dataclass

from exo_rkllm.dispatch.state import Phase


@dataclass(frozen=True, slots=True)
class RequestStatus:
    """`tokens` counts the pieces of a running request; `ahead` is the number of requests before a waiting one."""

    id: str
    client: str
    since: float
    tokens: int = 0
    ahead: int = 0


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """A model that was asked for since the daemon started; one that is not loaded is `cold`."""

    name: str
    engine: str
    state: Phase
    since: float
    running: tuple[RequestStatus, ...] = ()
    waiting: tuple[RequestStatus, ...] = ()
    slots: int = 1
    context: int = 0
    images: bool | None = None  # whether it sees; not known before it is loaded
    pinned: bool = False
    memory: int = 0
    domain: int | None = None
    unload_at: float | None = None
    retry_at: float | None = None
    error: str = ""
    hint: str = ""


@dataclass(frozen=True, slots=True)
class DispatchStatus:
    """`unavailable_reason` is why the NPU cannot be used at all."""

    models: tuple[ModelStatus, ...] = ()
    unavailable_reason: str = ""
    hint: str = ""
    draining: bool = False

    @property
    def running(self) -> int:
        return sum(len(model.running) for model in self.models)

    @property
    def waiting(self) -> int:
        return sum(len(model.waiting) for model in self.models)
