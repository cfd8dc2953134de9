"""Everything dispatch knows, as values: the state, what may happen to it, and what it wants done."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

from exo_rkllm.dispatch.queue import EMPTY, FairQueue
from exo_rkllm.errors import ExoRkllmError

Phase: TypeAlias = Literal["cold", "loading", "ready", "closing"]


@dataclass(frozen=True, slots=True)
class DispatchLimits:
    """What the operator decides; SIGHUP brings a new one."""

    queue: int = 128  # requests that may wait for one model
    queue_per_client: int = 32
    queue_seconds: float = 600.0
    keep_alive: float = 300.0  # seconds an idle model stays; negative means for ever
    max_loaded: int = 0  # 0 means as many as fit
    pinned: frozenset[str] = frozenset()
    reserve: int = 256 << 20  # bytes that stay free for the rest of the system
    domains: int = 16  # NPU address windows; 1 before driver 0.9.6 (reference npu-platform, drivers)
    npu_parallel: int = 1  # models that compute at a time: the NPU runs jobs one by one anyway (reference 2.13)


@dataclass(frozen=True, slots=True)
class ModelNeeds:
    """What a model takes. `npu` is its share of the NPU's address windows, 0 where it does not use the NPU."""

    memory: int = 0
    npu: int = 0
    domain: int | None = None  # where its card insists on one


@dataclass(frozen=True, slots=True)
class ModelState:
    name: str
    needs: ModelNeeds = ModelNeeds()
    phase: Phase = "cold"
    since: float = 0.0
    line: FairQueue = EMPTY
    running: frozenset[int] = frozenset()
    slots: int = 1
    asked: int | None = None  # the ticket of a load() that nobody's question stands behind
    pinned: bool = False
    keep_alive: float | None = None  # its own, set by load()
    linger: float | None = None  # the latest request's own, for the idle time that follows it
    unload: bool = False  # close it as soon as nothing runs
    used: float = 0.0
    turn: int = 0
    domain: int | None = None
    memory: int = 0  # as measured; outlives unloading, since the next load will take as much
    load_seconds: float = 0.0  # what the latest load took
    pace: float = 0.0  # seconds a run took lately
    crashes: tuple[float, ...] = ()
    retry_at: float = 0.0
    barred_until: float = 0.0
    error: ExoRkllmError | None = None
    corner: frozenset[str] = frozenset()  # busy models whose end it waits for, since memory allows no other way

    @property
    def wanted(self) -> bool:
        return self.asked is not None or bool(self.line)

    @property
    def claim(self) -> int:
        """The older the claim, the sooner memory is made for it."""
        claims = [ticket for ticket in (self.asked, self.line.oldest) if ticket is not None]
        return min(claims)

    @property
    def takes(self) -> int:
        return max(self.needs.memory, self.memory)


@dataclass(frozen=True, slots=True)
class DispatchState:
    limits: DispatchLimits = DispatchLimits()
    models: Mapping[str, ModelState] = field(default_factory=dict)
    unavailable_reason: ExoRkllmError | None = None  # why nothing can use the NPU now: no board, no runtime library
    draining: bool = False
    turns: int = 0

    def put(self, model: ModelState) -> DispatchState:
        return replace(self, models={**self.models, model.name: model})

    def change(self, name: str, **changes: Any) -> DispatchState:
        return self.put(replace(self.models[name], **changes))

    def keep_alive(self, model: ModelState) -> float:
        """Seconds of idleness that the model outlives; infinite where nothing but a command unloads it."""
        own = model.keep_alive if model.linger is None else model.linger
        seconds = self.limits.keep_alive if own is None else own
        return math.inf if self.pinned(model) or seconds < 0 else seconds

    def pinned(self, model: ModelState) -> bool:
        return model.pinned or model.name in self.limits.pinned

    def lacks_npu(self, model: ModelState) -> bool:
        return self.unavailable_reason is not None and model.needs.npu > 0

    def expects(self, model: ModelState) -> bool:
        """Somebody wants the model, and nothing but time and memory stands in the way."""
        return model.phase == "cold" and model.wanted and not self.lacks_npu(model) and not self.draining


# ── what happens ─────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class SubmitEvent:
    ticket: int
    model: str
    needs: ModelNeeds
    client: str = ""
    keep_alive: float | None = None


@dataclass(frozen=True, slots=True)
class RequestGoneEvent:
    """A request is over, wherever it was; `seconds` is what an undisturbed run took."""

    ticket: int
    model: str
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class LoadEvent:
    ticket: int
    model: str
    needs: ModelNeeds
    keep_alive: float | None = None
    pin: bool = False


@dataclass(frozen=True, slots=True)
class UnloadEvent:
    model: str


@dataclass(frozen=True, slots=True)
class MemoryMeasuredEvent:
    """The answer to `MeasureMemoryEffect`: bytes available in the system, and what each loaded model holds."""

    model: str
    available: int
    sizes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EngineReadyEvent:
    model: str
    slots: int = 1
    memory: int = 0


@dataclass(frozen=True, slots=True)
class EngineLostEvent:
    """The engine failed, while it loaded or after; `EngineClosedEvent` follows once it let go of everything."""

    model: str
    error: ExoRkllmError


@dataclass(frozen=True, slots=True)
class EngineClosedEvent:
    model: str


@dataclass(frozen=True, slots=True)
class NpuUnavailableEvent:
    """The NPU cannot be used any more, or (None) can be used again."""

    reason: ExoRkllmError | None


@dataclass(frozen=True, slots=True)
class LimitsChangedEvent:
    limits: DispatchLimits


@dataclass(frozen=True, slots=True)
class DrainEvent:
    """No new requests, and those that wait are sent away; what runs may end."""


@dataclass(frozen=True, slots=True)
class StopEvent:
    """Close every engine, whatever it is doing."""


@dataclass(frozen=True, slots=True)
class TickEvent:
    """A deadline has come."""


DispatchEvent: TypeAlias = (
    SubmitEvent
    | RequestGoneEvent
    | LoadEvent
    | UnloadEvent
    | MemoryMeasuredEvent
    | EngineReadyEvent
    | EngineLostEvent
    | EngineClosedEvent
    | NpuUnavailableEvent
    | LimitsChangedEvent
    | DrainEvent
    | StopEvent
    | TickEvent
)


# ── what is to be done ───────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class MeasureMemoryEffect:
    """Ask the system for memory figures: needed for a load only, and too slow for every decision."""

    model: str


@dataclass(frozen=True, slots=True)
class StartLoadEffect:
    model: str
    domain: int | None


@dataclass(frozen=True, slots=True)
class StartRunEffect:
    ticket: int
    model: str


@dataclass(frozen=True, slots=True)
class RefuseEffect:
    ticket: int
    error: ExoRkllmError


@dataclass(frozen=True, slots=True)
class CloseEngineEffect:
    """End the engine; whatever it was answering fails with `reason`."""

    model: str
    reason: ExoRkllmError | None = None


@dataclass(frozen=True, slots=True)
class LoadSettledEffect:
    """Tell whoever called load() how it went."""

    model: str
    error: ExoRkllmError | None = None


DispatchEffect: TypeAlias = (
    MeasureMemoryEffect | StartLoadEffect | StartRunEffect | RefuseEffect | CloseEngineEffect | LoadSettledEffect
)
