"""What may happen to dispatch, and what it wants done: the two vocabularies of `decide`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from exo_rkllm.backends.observer import RestartReason
from exo_rkllm.dispatch.state import DispatchLimits, ModelNeeds
from exo_rkllm.errors import ExoRkllmError


@dataclass(frozen=True, slots=True)
class SubmitEvent:
    """A request wants its turn on a model."""

    ticket: int
    model: str
    needs: ModelNeeds
    client: str = ""
    keep_alive: float | None = None
    background: bool = False
    conversation: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class QueueLeftEvent:
    """These requests have gone before their turn came. Where many clients leave at once, they are in one event."""

    tickets: frozenset[int]


@dataclass(frozen=True, slots=True)
class RequestGoneEvent:
    """A request that had its turn is over; `seconds` is what an undisturbed run took."""

    ticket: int
    model: str
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class LoadEvent:
    """Somebody wants the model in memory, without a question; LoadSettledEffect answers."""

    ticket: int
    model: str
    needs: ModelNeeds
    keep_alive: float | None = None
    pin: bool = False


@dataclass(frozen=True, slots=True)
class UnloadEvent:
    """Somebody wants the model's memory back, once what runs has ended; UnloadSettledEffect answers."""

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
    """Nothing of the engine is left. Follows every StartLoadEffect, as the last event of that engine."""

    model: str


@dataclass(frozen=True, slots=True)
class NpuUnavailableEvent:
    """The NPU cannot be used any more, or (None) can be used again; `npu_lost` False: only for want of the library."""

    reason: ExoRkllmError | None
    npu_lost: bool = True


@dataclass(frozen=True, slots=True)
class LeaseEvent:
    """Another program, of that name, wants the NPU for itself; GrantLeaseEffect or RefuseEffect answers."""

    ticket: int
    name: str


@dataclass(frozen=True, slots=True)
class LeaseOverEvent:
    """The program does not want the NPU any more, whether it had it or not."""

    ticket: int


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
    | QueueLeftEvent
    | RequestGoneEvent
    | LoadEvent
    | UnloadEvent
    | MemoryMeasuredEvent
    | EngineReadyEvent
    | EngineLostEvent
    | EngineClosedEvent
    | NpuUnavailableEvent
    | LeaseEvent
    | LeaseOverEvent
    | LimitsChangedEvent
    | DrainEvent
    | StopEvent
    | TickEvent
)


# ── effects ──────────────────────────────────────────────────────────────────────────────────────


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
class QueueAheadEffect:
    """This request, which goes on waiting, is the model's next one: its engine may begin it when the present run ends.
    StartRunEffect follows, or WithdrawEffect."""

    ticket: int
    model: str


@dataclass(frozen=True, slots=True)
class WithdrawEffect:
    """It is the next one no longer: its run is taken back, and ended if it has begun."""

    ticket: int
    model: str


@dataclass(frozen=True, slots=True)
class RefuseEffect:
    """Raise `error` to a request, or a lease, that waits."""

    ticket: int
    error: ExoRkllmError


@dataclass(frozen=True, slots=True)
class CloseEngineEffect:
    """End the engine; whatever it was answering fails with `reason`. Given once for one engine."""

    model: str
    reason: ExoRkllmError | None = None


@dataclass(frozen=True, slots=True)
class ReportLossEffect:
    """Tell the log why an engine is lost and, where it was ready (`restart`), whoever counts."""

    model: str
    error: ExoRkllmError
    restart: RestartReason | None = None


@dataclass(frozen=True, slots=True)
class LoadSettledEffect:
    """Tell whoever waits for a load how it went."""

    model: str
    error: ExoRkllmError | None = None


@dataclass(frozen=True, slots=True)
class UnloadSettledEffect:
    """Tell whoever waits for an unload whether an engine was closed; False where none was, or a load came between."""

    model: str
    closed: bool


@dataclass(frozen=True, slots=True)
class GrantLeaseEffect:
    """The NPU is the other program's now."""

    ticket: int


@dataclass(frozen=True, slots=True)
class ExpireLeaseEffect:
    """The other program's time is over: it has to stop, or (`ended`) has lost the NPU whether it stopped or not."""

    ticket: int
    ended: bool = False


DispatchEffect: TypeAlias = (
    MeasureMemoryEffect
    | StartLoadEffect
    | StartRunEffect
    | QueueAheadEffect
    | WithdrawEffect
    | RefuseEffect
    | CloseEngineEffect
    | ReportLossEffect
    | LoadSettledEffect
    | UnloadSettledEffect
    | GrantLeaseEffect
    | ExpireLeaseEffect
)
