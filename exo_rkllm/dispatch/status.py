"""What dispatch tells of itself, as frozen values; moments are seconds since the epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from exo_rkllm.backends.base import Engine, Model
from exo_rkllm.backends.observer import AnswerReport
from exo_rkllm.backends.prefix_plan import NO_PREFIXES, PrefixTally
from exo_rkllm.dispatch.lease import NpuLease
from exo_rkllm.dispatch.request import ActiveRequest
from exo_rkllm.dispatch.state import DispatchState, ModelState
from exo_rkllm.dispatch.stuck import StuckModel, stuck_models
from exo_rkllm.errors import ExoRkllmError, PictureError

# `failed`: a request would not be answered now, since the latest load failed, the model's process died too often to be
# started again at once, or there is no NPU. `cold` is loaded by the next request.
ServingState: TypeAlias = Literal["cold", "loading", "ready", "closing", "failed"]


@dataclass(frozen=True, slots=True)
class RequestStatus:
    """`tokens` counts the pieces of a running request; `ahead` is the number of requests before a waiting one.

    `reference` is the X-Request-Id of requests over HTTP.
    """

    id: str
    client: str
    since: float
    tokens: int = 0
    ahead: int = 0
    reference: str = ""


@dataclass(frozen=True, slots=True)
class PictureTally:
    """Images in a model's requests since the daemon started. Of those `shown`, so many were `encoded`, in `seconds`;
    the others' encodings had been kept. `refused` counts requests with an image that cannot be used."""

    shown: int = 0
    encoded: int = 0
    seconds: float = 0.0
    refused: int = 0

    def plus(self, report: AnswerReport) -> PictureTally:
        return PictureTally(
            self.shown + report.usage.images,
            self.encoded + report.usage.encoded,
            self.seconds + report.timings.encode,
            self.refused + (report.reason == PictureError.code),
        )


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """A model that was asked for since the daemon started.

    `state` is the one answer to how the model is: nobody derives another from the rest. `error` and `hint` say why its
    latest engine failed, also while it is `cold` or loads again; `retry_at` is when it may be loaded again.
    """

    name: str
    engine: str
    state: ServingState
    since: float
    running: tuple[RequestStatus, ...] = ()
    waiting: tuple[RequestStatus, ...] = ()
    slots: int = 1
    context: int = 0
    images: bool | None = None  # whether it sees; not known before it is loaded
    pictures: PictureTally = PictureTally()
    prefixes: PrefixTally = NO_PREFIXES
    pinned: bool = False
    memory: int = 0
    load_seconds: float = 0.0  # what the latest load took; 0 before the first
    domain: int | None = None
    runtime: str = ""  # the vendor library's release that it is loaded with, and why that one
    runtime_reason: str = ""
    unload_at: float | None = None
    retry_at: float | None = None
    error: str = ""
    hint: str = ""


@dataclass(frozen=True, slots=True)
class LeaseStatus:
    """Other programs that take turns on the NPU by a lease: the one that has it, since when, and those that wait."""

    name: str = ""
    since: float | None = None
    expires_at: float | None = None
    waiting: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DispatchStatus:
    """`unavailable_reason` is why the NPU cannot be used; without `npu_lost`, only by models of the vendor's library.

    While a model is `stuck`, none can be loaded.
    """

    models: tuple[ModelStatus, ...] = ()
    unavailable_reason: str = ""
    hint: str = ""
    draining: bool = False
    npu_lost: bool = False
    lease: LeaseStatus = LeaseStatus()
    stuck: tuple[StuckModel, ...] = ()

    @property
    def running(self) -> int:
        return sum(len(model.running) for model in self.models)

    @property
    def waiting(self) -> int:
        return sum(len(model.waiting) for model in self.models)


@dataclass(frozen=True, slots=True)
class ModelOverview:
    """`state` as in ModelStatus; `error` is the sentence."""

    name: str
    state: ServingState
    since: float  # of the monotonic clock
    error: str


@dataclass(frozen=True, slots=True)
class DispatchOverview:
    """What whoever follows the daemon needs of the status: that changes with loads, runs and the NPU."""

    models: tuple[ModelOverview, ...] = ()
    running: int = 0
    unavailable_reason: str = ""
    draining: bool = False
    npu_lost: bool = False


def dispatch_overview(state: DispatchState) -> DispatchOverview:
    now, reason = time.monotonic(), state.unavailable_reason
    return DispatchOverview(
        tuple(
            ModelOverview(name, serving_state(state, model, now), model.since, _sentence(_error(state, model)))
            for name, model in sorted(state.models.items())
        ),
        sum(len(model.running) for model in state.models.values()),
        _sentence(reason),
        state.draining,
        state.npu_lost,
    )


def _error(state: DispatchState, model: ModelState) -> ExoRkllmError | None:
    return state.unavailable_reason if state.lacks_npu(model) else model.error


def _sentence(error: ExoRkllmError | None) -> str:
    return "" if error is None else error.sentence


def serving_state(state: DispatchState, model: ModelState, now: float) -> ServingState:
    if model.phase in ("loading", "ready"):
        return model.phase
    failed = model.load_failed or model.retry_at > now or state.lacks_npu(model)
    return "failed" if failed else model.phase


def dispatch_status(
    state: DispatchState,
    models: Mapping[str, Model],
    engines: Mapping[str, Engine],
    requests: Mapping[int, ActiveRequest],
    leases: Mapping[int, NpuLease],
    pictures: Mapping[str, PictureTally],
    prefixes: Mapping[str, PrefixTally],
) -> DispatchStatus:
    """The state of this moment with what the engines and the requests know of themselves."""
    now, epoch = time.monotonic(), time.time() - time.monotonic()
    reason = state.unavailable_reason
    return DispatchStatus(
        tuple(
            replace(
                _model_status(state, model, models[name], engines.get(name), requests, now, epoch),
                pictures=pictures.get(name, PictureTally()),
                prefixes=prefixes.get(name, NO_PREFIXES),
            )
            for name, model in sorted(state.models.items())
        ),
        _sentence(reason),
        "" if reason is None else reason.hint,
        state.draining,
        state.npu_lost,
        _lease_status(state, leases, epoch),
        stuck_models(state, now),
    )


def _lease_status(state: DispatchState, leases: Mapping[int, NpuLease], epoch: float) -> LeaseStatus:
    waiting = tuple(entry.client for entry in state.lease.queue.entries)
    holder = None if state.lease.holder is None else leases.get(state.lease.holder)
    if holder is None:
        return LeaseStatus(waiting=waiting)
    since = epoch + state.lease.since
    return LeaseStatus(holder.name, since, since + state.limits.lease_seconds, waiting)


def _request_status(active: ActiveRequest, since: float, *, tokens: int = 0, ahead: int = 0) -> RequestStatus:
    return RequestStatus(active.request.id, active.client, since, tokens, ahead, active.request.reference)


def _model_status(
    state: DispatchState,
    model: ModelState,
    card: Model,
    engine: Engine | None,
    requests: Mapping[int, ActiveRequest],
    now: float,
    epoch: float,
) -> ModelStatus:
    running = [requests[ticket] for ticket in sorted(model.running) if ticket in requests]
    waiting = [requests[entry.ticket] for entry in model.queue.entries if entry.ticket in requests]
    measured = None if engine is None else engine.memory
    runtime, runtime_reason = ("", "") if engine is None else engine.runtime
    unload_at = state.idle_deadline(model)
    error = _error(state, model)
    return ModelStatus(
        name=model.name,
        engine=card.engine,
        state=serving_state(state, model, now),
        since=epoch + model.since,
        running=tuple(_request_status(one, epoch + (one.started_at or now), tokens=one.tokens) for one in running),
        waiting=tuple(
            _request_status(one, epoch + one.submitted_at, ahead=ahead)
            for ahead, one in enumerate(waiting, len(running))
        ),
        slots=model.slots,
        context=card.context if engine is None else engine.capabilities.context,
        images=None if engine is None or model.phase != "ready" else engine.capabilities.images,
        pinned=state.pinned(model),
        memory=model.memory_needed if measured is None else measured,
        load_seconds=model.load_seconds,
        domain=model.domain,
        runtime=runtime,
        runtime_reason=runtime_reason,
        unload_at=epoch + unload_at if math.isfinite(unload_at) else None,
        retry_at=epoch + model.retry_at if model.retry_at > now else None,
        error=_sentence(error),
        hint="" if error is None else error.hint,
    )
