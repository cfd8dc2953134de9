"""The run loop's one step: (state, what happened, now) to (state, what is to be done).

`_record` takes down what happened; `_settle` then derives from the state alone what follows, so that no order of
happenings can lose a request or start one twice. Time enters as `now`, memory as `Measured`: nothing here does I/O.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from exo_rkllm.dispatch import crashes, placement, turns
from exo_rkllm.dispatch.queue import QueueEntry
from exo_rkllm.dispatch.state import (
    CloseEngineEffect,
    DispatchEffect,
    DispatchEvent,
    DispatchState,
    DrainEvent,
    EngineClosedEvent,
    EngineLostEvent,
    EngineReadyEvent,
    LimitsChangedEvent,
    LoadEvent,
    LoadSettledEffect,
    MeasureMemoryEffect,
    MemoryMeasuredEvent,
    ModelNeeds,
    ModelState,
    NpuUnavailableEvent,
    RefuseEffect,
    RequestGoneEvent,
    StartLoadEffect,
    StartRunEffect,
    StopEvent,
    SubmitEvent,
    TickEvent,
    UnloadEvent,
)
from exo_rkllm.errors import Busy, ExoRkllmError, RunnerLost


def decide(state: DispatchState, happening: DispatchEvent, now: float) -> tuple[DispatchState, list[DispatchEffect]]:
    effects: list[DispatchEffect] = []
    state = _RECORD[type(happening)](state, happening, now, effects)
    return _settle(state, now, effects, measured=isinstance(happening, MemoryMeasuredEvent)), effects


def deadline(state: DispatchState, now: float) -> float | None:
    """When something is due although nothing happens; None lets the daemon sleep."""
    due = [
        moment
        for model in state.models.values()
        for moment in (idle_deadline(state, model), _patience(state, model), model.retry_at)
        if now < moment < math.inf
    ]
    return min(due, default=None)


# ── what happened ────────────────────────────────────────────────────────────────────────────────


def _submit(state: DispatchState, event: SubmitEvent, now: float, effects: list[DispatchEffect]) -> DispatchState:
    state = _know(state, event.model, event.needs)
    model = state.models[event.model]
    refusal = _no_service(state, model, now) or _no_room(state, model, event.client)
    if refusal is not None:
        effects.append(RefuseEffect(event.ticket, refusal))
        return state
    entry = QueueEntry(event.ticket, event.client, now, event.keep_alive)
    return state.change(event.model, line=model.line.join(entry))


def _gone(state: DispatchState, event: RequestGoneEvent, now: float, effects: list[DispatchEffect]) -> DispatchState:
    model = state.models.get(event.model)
    if model is None:
        return state
    if model.line.has(event.ticket):
        return state.change(event.model, line=model.line.left(event.ticket))
    if event.ticket not in model.running:
        return state  # its engine was lost or closed before
    state = state.change(event.model, running=model.running - {event.ticket}, used=now)
    if event.seconds is None:
        return state
    pace = event.seconds if model.pace == 0 else 0.7 * model.pace + 0.3 * event.seconds
    return state.change(event.model, pace=pace, crashes=(), error=None)


def _load(state: DispatchState, event: LoadEvent, now: float, effects: list[DispatchEffect]) -> DispatchState:
    state = _know(state, event.model, event.needs)
    model = state.models[event.model]
    refusal = _no_service(state, model, now)
    if refusal is not None:
        effects.append(LoadSettledEffect(event.model, refusal))
        later = (event.pin or state.pinned(model)) and state.lacks_npu(model)
        return state.change(event.model, pinned=model.pinned or event.pin, asked=0) if later else state
    keep_alive = model.keep_alive if event.keep_alive is None else event.keep_alive
    changes: dict[str, Any] = {"keep_alive": keep_alive, "linger": None, "pinned": model.pinned or event.pin}
    if model.phase == "ready":
        effects.append(LoadSettledEffect(event.model))
        return state.change(event.model, used=now, unload=False, **changes)
    if model.phase == "loading":
        return state.change(event.model, **changes)
    return state.change(event.model, asked=event.ticket if model.asked is None else model.asked, **changes)


def _unload(state: DispatchState, event: UnloadEvent, now: float, effects: list[DispatchEffect]) -> DispatchState:
    model = state.models.get(event.model)
    if model is None:
        return state
    if model.asked is not None or model.phase == "loading":
        effects.append(LoadSettledEffect(event.model, RunnerLost(f"{event.model} was unloaded before it was ready.")))
    state = state.change(event.model, pinned=False, keep_alive=None, asked=None, unload=model.phase == "ready")
    return _close(state, event.model, now, effects, None) if model.phase == "loading" else state


def _measured(
    state: DispatchState, event: MemoryMeasuredEvent, now: float, effects: list[DispatchEffect]
) -> DispatchState:
    for name, size in event.sizes.items():
        state = state.change(name, memory=size)
    plan = placement.plan(state, event.model, event.available)
    if isinstance(plan, placement.Fits):
        effects.append(StartLoadEffect(event.model, plan.domain))
        return state.change(event.model, phase="loading", since=now, domain=plan.domain, corner=frozenset())
    if isinstance(plan, placement.Evict):
        for name in sorted(plan.models):
            state = _close(state, name, now, effects, None)
        return state.change(event.model, corner=frozenset())
    if isinstance(plan, placement.Await):
        return state.change(event.model, corner=plan.models)
    return _give_up(state.change(event.model, error=plan), event.model, plan, effects)


def _loaded(state: DispatchState, event: EngineReadyEvent, now: float, effects: list[DispatchEffect]) -> DispatchState:
    if state.models[event.model].phase != "loading":
        return state
    effects.append(LoadSettledEffect(event.model))
    took = now - state.models[event.model].since
    changes = {"slots": max(1, event.slots), "memory": event.memory, "asked": None, "load_seconds": took}
    return state.change(event.model, phase="ready", since=now, used=now, **changes)


def _lost(state: DispatchState, event: EngineLostEvent, now: float, effects: list[DispatchEffect]) -> DispatchState:
    model = state.models[event.model]
    if model.phase not in ("loading", "ready"):
        return state
    crashed = model.phase == "ready" or isinstance(event.error, RunnerLost)
    after = crashes.after_crash(model, now) if crashed else model
    state = state.put(replace(after, phase="closing", since=now, running=frozenset(), unload=False, error=event.error))
    # Whoever was being answered hears it from the engine. Whoever waits for a load that failed, or for a model that
    # keeps dying, would wait for the same again.
    if model.phase == "loading" or after.barred_until > now:
        state = _give_up(state, event.model, event.error, effects)
    return state.change(event.model, asked=0) if crashed and state.pinned(model) else state


def _closed(state: DispatchState, event: EngineClosedEvent, now: float, effects: list[DispatchEffect]) -> DispatchState:
    return state.change(event.model, phase="cold", since=now, unload=False, domain=None, linger=None)


def _npu_unavailable(
    state: DispatchState, event: NpuUnavailableEvent, now: float, effects: list[DispatchEffect]
) -> DispatchState:
    state = replace(state, unavailable_reason=event.reason)
    if event.reason is None:
        return state
    for model in state.models.values():
        if not model.needs.npu:
            continue
        kept = state.pinned(model) and (model.asked is not None or model.phase in ("loading", "ready"))
        if model.asked is not None or model.phase == "loading":
            effects.append(LoadSettledEffect(model.name, event.reason))
        if model.phase in ("loading", "ready"):
            state = _close(state, model.name, now, effects, event.reason)
        state = state.change(model.name, asked=0 if kept else None, error=event.reason)
    return state


def _reconfigured(
    state: DispatchState, event: LimitsChangedEvent, now: float, effects: list[DispatchEffect]
) -> DispatchState:
    return replace(state, limits=event.limits)


def _drain(state: DispatchState, event: DrainEvent, now: float, effects: list[DispatchEffect]) -> DispatchState:
    for name in state.models:
        state = _give_up(state, name, _shutting_down(), effects)
    return replace(state, draining=True)


def _stop(state: DispatchState, event: StopEvent, now: float, effects: list[DispatchEffect]) -> DispatchState:
    for model in state.models.values():
        if model.phase in ("loading", "ready"):
            state = _close(state, model.name, now, effects, _shutting_down())
    return state


def _tick(state: DispatchState, event: TickEvent, now: float, effects: list[DispatchEffect]) -> DispatchState:
    return state


_RECORD: Mapping[type, Callable[[DispatchState, Any, float, list[DispatchEffect]], DispatchState]] = {
    SubmitEvent: _submit,
    RequestGoneEvent: _gone,
    LoadEvent: _load,
    UnloadEvent: _unload,
    MemoryMeasuredEvent: _measured,
    EngineReadyEvent: _loaded,
    EngineLostEvent: _lost,
    EngineClosedEvent: _closed,
    NpuUnavailableEvent: _npu_unavailable,
    LimitsChangedEvent: _reconfigured,
    DrainEvent: _drain,
    StopEvent: _stop,
    TickEvent: _tick,
}


# ── what follows ─────────────────────────────────────────────────────────────────────────────────


def _settle(state: DispatchState, now: float, effects: list[DispatchEffect], *, measured: bool) -> DispatchState:
    state = _send_away_the_late(state, now, effects)
    while (turn := turns.next_turn(state)) is not None:
        name, entry = turn
        model = state.models[name]
        effects.append(StartRunEffect(entry.ticket, name))
        state = replace(state, turns=state.turns + 1).change(
            name,
            line=model.line.served(entry.ticket),
            running=model.running | {entry.ticket},
            linger=entry.keep_alive,
            turn=state.turns + 1,
        )
    for model in state.models.values():
        if idle_deadline(state, model) <= now:
            state = _close(state, model.name, now, effects, None)
    # One load at a time, since a load that is under way has not taken its memory yet (and two at once crash
    # runtime 1.3.0, reference 2.1); a measurement whose plan was to wait is repeated when something happened.
    if not measured and not any(model.phase in ("loading", "closing") for model in state.models.values()):
        candidates = [model for model in state.models.values() if state.expects(model) and model.retry_at <= now]
        if candidates:
            effects.append(MeasureMemoryEffect(min(candidates, key=lambda model: model.claim).name))
    return state


def _send_away_the_late(state: DispatchState, now: float, effects: list[DispatchEffect]) -> DispatchState:
    for model in state.models.values():
        if _patience(state, model) > now:
            continue
        for entry in model.line.entries:
            if entry.since + state.limits.queue_seconds <= now:
                waited = f"The request waited {state.limits.queue_seconds:.0f} s for {model.name}, which is the limit."
                effects.append(RefuseEffect(entry.ticket, _busy(state, model, waited)))
                state = state.change(model.name, line=state.models[model.name].line.left(entry.ticket))
    return state


def _close(
    state: DispatchState, name: str, now: float, effects: list[DispatchEffect], reason: ExoRkllmError | None
) -> DispatchState:
    effects.append(CloseEngineEffect(name, reason))
    return state.change(name, phase="closing", since=now, running=frozenset())


def _give_up(state: DispatchState, name: str, error: ExoRkllmError, effects: list[DispatchEffect]) -> DispatchState:
    """Everybody who waits for the model is told why not, and nobody asks for it any more."""
    line = state.models[name].line
    for entry in line.entries:
        effects.append(RefuseEffect(entry.ticket, error))
        line = line.left(entry.ticket)
    effects.append(LoadSettledEffect(name, error))
    return state.change(name, line=line, asked=None, corner=frozenset())


def _know(state: DispatchState, name: str, needs: ModelNeeds) -> DispatchState:
    model = state.models.get(name)
    return state.put(ModelState(name, needs) if model is None else replace(model, needs=needs))


def _no_service(state: DispatchState, model: ModelState, now: float) -> ExoRkllmError | None:
    if state.draining:
        return _shutting_down()
    if state.lacks_npu(model):
        return state.unavailable_reason
    if model.barred_until > now:
        return crashes.barred(model, now)
    return None


def _no_room(state: DispatchState, model: ModelState, client: str) -> Busy | None:
    if len(model.line) >= state.limits.queue:
        return _busy(state, model, f"{len(model.line)} requests wait for {model.name} already.")
    if model.line.of(client) >= state.limits.queue_per_client:
        return _busy(state, model, f"{model.line.of(client)} requests of this client wait for {model.name} already.")
    return None


def _shutting_down() -> Busy:
    return Busy("exo-rkllm is shutting down.", "Ask again in a moment.", retry_after=5.0)


def _busy(state: DispatchState, model: ModelState, sentence: str) -> Busy:
    """A place is free when the next run ends; models that share the NPU take turns with this one."""
    sharing = sum(1 for other in state.models.values() if other.needs.npu and other.line) if model.needs.npu else 1
    seconds = max(1.0, model.pace * max(1, sharing) / model.slots)
    return Busy(sentence, f"Ask again in {seconds:.0f} s.", retry_after=seconds)


def idle_deadline(state: DispatchState, model: ModelState) -> float:
    if model.phase != "ready" or model.running:
        return math.inf
    if model.unload:
        return -math.inf
    return math.inf if model.line else model.used + state.keep_alive(model)


def _patience(state: DispatchState, model: ModelState) -> float:
    return min((entry.since + state.limits.queue_seconds for entry in model.line.entries), default=math.inf)
