"""Everything dispatch knows, as frozen values that `decide` replaces."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, TypeVar

from exo_rkllm.dispatch.lease import NO_LEASE, LeaseState
from exo_rkllm.dispatch.queue import EMPTY, FairQueue
from exo_rkllm.errors import ExoRkllmError

S = TypeVar("S", "ModelState", "DispatchState")

Phase: TypeAlias = Literal["cold", "loading", "ready", "closing"]


@dataclass(frozen=True, slots=True)
class DispatchLimits:
    """What the operator decides; SIGHUP brings a new one."""

    queue: int = 128  # requests that may wait for one model
    queue_per_client: int = 32
    queue_seconds: float = 600.0
    lease_seconds: float = 600.0  # another program may hold the NPU
    keep_alive: float = 300.0  # seconds an idle model stays; negative means for ever
    max_loaded: int = 0  # 0 means as many as fit
    pinned: frozenset[str] = frozenset()
    reserve: int = 256 << 20  # bytes that stay free for the rest of the system
    domains: int = 16  # NPU address windows; 1 before driver 0.9.6 (reference npu-platform, drivers)
    lowest_domain: int = 0  # where language models begin, so that those below are left to librknnrt
    npu_parallel: int = 1  # models that compute at a time: the NPU runs jobs one by one anyway (reference 2.13)


@dataclass(frozen=True, slots=True)
class ModelNeeds:
    """What a model takes. `npu` is its share of the NPU's address windows, 0 where it does not use the NPU."""

    memory: int = 0
    npu: int = 0
    domain: int | None = None  # where its card or its engine insists on one
    library: bool = True  # whether what it does on the NPU takes the vendor's library


def evolved(value: S, **changes: Any) -> S:
    """The same with other values, as `dataclasses.replace` makes it, in a tenth of the time.

    A third of what a short request took was spent there. It is for the wide states here, which have no slots.
    """
    new = object.__new__(type(value))
    new.__dict__.update(value.__dict__)
    new.__dict__.update(changes)
    if len(new.__dict__) != len(value.__dict__):
        raise TypeError(f"{type(value).__name__} has no {', '.join(changes.keys() - value.__dict__.keys())}")
    return new


@dataclass(frozen=True)
class ModelState:
    """One model that was asked for since the daemon started. `ModelStatus.state` is what others are told of it."""

    name: str
    needs: ModelNeeds = ModelNeeds()
    phase: Phase = "cold"
    since: float = 0.0  # when the phase began
    queue: FairQueue = EMPTY
    running: frozenset[int] = frozenset()
    slots: int = 1
    load_ticket: int | None = None  # of a load() that no request stands behind; 0 for a pinned model that is to return
    pinned: bool = False
    keep_alive: float | None = None  # set by load()
    keep_alive_after_request: float | None = None  # set by the latest request
    unload_when_idle: bool = False
    last_used: float = 0.0
    hot: int | None = None  # the conversation of its latest run that was no background question
    ahead: int | None = None  # who waits and will be next; the engine may hold that run ready
    last_turn: int = 0  # the number of its latest run, over all models
    domain: int | None = None
    memory: int = 0  # as measured; outlives unloading, since the next load will take as much
    load_seconds: float = 0.0  # what the latest load took
    run_seconds: float = 0.0  # what a run took lately
    crashes: tuple[float, ...] = ()  # without an answer in between
    retry_at: float = 0.0
    barred_until: float = 0.0
    error: ExoRkllmError | None = None  # why its latest engine failed; None once an engine is ready again
    load_failed: bool = False  # the latest load failed, and nothing has changed since that may have helped
    waits_for_models: frozenset[str] = frozenset()  # busy ones whose end makes room for it

    @property
    def wanted(self) -> bool:
        return self.load_ticket is not None or bool(self.queue)

    @property
    def claim(self) -> int:
        """The oldest ticket that wants a model that is wanted: the older, the sooner memory is made for it."""
        return min(ticket for ticket in (self.load_ticket, self.queue.oldest) if ticket is not None)

    @property
    def memory_needed(self) -> int:
        return max(self.needs.memory, self.memory)


@dataclass(frozen=True)
class DispatchState:
    limits: DispatchLimits = DispatchLimits()
    models: Mapping[str, ModelState] = field(default_factory=dict)
    unavailable_reason: ExoRkllmError | None = None  # why nothing can use the NPU now: no board, no runtime library
    npu_lost: bool = False  # the NPU itself, not only the vendor's library
    draining: bool = False
    runs: int = 0  # started so far
    lease: LeaseState = NO_LEASE

    def put(self, model: ModelState) -> DispatchState:
        return evolved(self, models={**self.models, model.name: model})

    def change(self, name: str, **changes: Any) -> DispatchState:
        return self.put(evolved(self.models[name], **changes))

    def keep_alive(self, model: ModelState) -> float:
        """Seconds of idleness that the model outlives; infinite where nothing but a command unloads it."""
        own = model.keep_alive if model.keep_alive_after_request is None else model.keep_alive_after_request
        seconds = self.limits.keep_alive if own is None else own
        return math.inf if self.pinned(model) or seconds < 0 else seconds

    def idle_deadline(self, model: ModelState) -> float:
        """When the model is unloaded if nothing happens; minus infinity for at once."""
        if model.phase != "ready" or model.running:
            return math.inf
        if model.unload_when_idle:
            return -math.inf
        return math.inf if model.queue else model.last_used + self.keep_alive(model)

    def pinned(self, model: ModelState) -> bool:
        return model.pinned or model.name in self.limits.pinned

    def lacks_npu(self, model: ModelState) -> bool:
        lost = self.unavailable_reason is not None and (self.npu_lost or model.needs.library)
        return lost and model.needs.npu > 0

    @property
    def lease_ticket(self) -> int | None:
        """The lease that is the next to be granted, once nothing computes on the NPU; None where nobody waits."""
        gone = self.unavailable_reason is not None and self.npu_lost
        entry = None if gone or self.lease.holder is not None else self.lease.queue.next()
        return None if entry is None else entry.ticket

    def may_load(self, model: ModelState) -> bool:
        """Somebody wants the model, and nothing but time and memory stands in the way."""
        return model.phase == "cold" and model.wanted and not self.lacks_npu(model) and not self.draining
