"""What dispatch decides: (state, event, now) to (state, effects).

A recorder takes down the event; `_settle` then derives from the state alone what follows, so that no order of events
can lose a request or start one twice. Time enters as `now`, memory as an event: nothing here does I/O.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from exo_rkllm.backends.observer import RestartReason, restart_reason
from exo_rkllm.dispatch import events as on
from exo_rkllm.dispatch import placement
from exo_rkllm.dispatch.events import DispatchEffect, DispatchEvent
from exo_rkllm.dispatch.queue import QueueEntry
from exo_rkllm.dispatch.state import DispatchState, ModelNeeds, ModelState
from exo_rkllm.errors import Busy, ExoRkllmError, RunnerLost

# Seconds before an engine that crashed is loaded again, for each crash without an answer in between; after the last
# one, the model is not loaded at all for BAR seconds.
BACK_OFF = (0.0, 2.0, 8.0)
BAR = 120.0
# Crashes further apart than this have nothing to do with each other.
CRASH_MEMORY = 600.0


def decide(state: DispatchState, event: DispatchEvent, now: float) -> tuple[DispatchState, list[DispatchEffect]]:
    """The state after the event, and what is to be done, in this order."""
    effects: list[DispatchEffect] = []
    state = _RECORDERS[type(event)](state, event, now, effects)
    return _settle(state, now, effects, measured=isinstance(event, on.MemoryMeasuredEvent)), effects


def deadline(state: DispatchState, now: float) -> float | None:
    """When something is due although nothing happens; None lets the daemon sleep."""
    due = [
        moment
        for model in state.models.values()
        for moment in (state.idle_deadline(model), _patience(state, model), model.retry_at)
        if now < moment < math.inf
    ]
    return min(due, default=None)


# ── requests ─────────────────────────────────────────────────────────────────────────────────────


def _submit(state: DispatchState, event: on.SubmitEvent, now: float, effects: list[DispatchEffect]) -> DispatchState:
    state = _with_model(state, event.model, event.needs)
    model = state.models[event.model]
    refusal = _no_service(state, model, now) or _queue_full(state, model, event.client)
    if refusal is not None:
        effects.append(on.RefuseEffect(event.ticket, refusal))
        return state
    entry = QueueEntry(event.ticket, event.client, now, event.keep_alive)
    return state.change(event.model, queue=model.queue.join(entry))


def _gone(state: DispatchState, event: on.RequestGoneEvent, now: float, effects: list[DispatchEffect]) -> DispatchState:
    model = state.models.get(event.model)
    if model is None:
        return state
    if model.queue.has(event.ticket):
        return state.change(event.model, queue=model.queue.leave(event.ticket))
    if event.ticket not in model.running:
        return state  # its engine was lost or closed before
    state = state.change(event.model, running=model.running - {event.ticket}, last_used=now)
    if event.seconds is None:
        return state
    mean = event.seconds if model.run_seconds == 0 else 0.7 * model.run_seconds + 0.3 * event.seconds
    return state.change(event.model, run_seconds=mean, crashes=())


# ── engines ──────────────────────────────────────────────────────────────────────────────────────


def _load(state: DispatchState, event: on.LoadEvent, now: float, effects: list[DispatchEffect]) -> DispatchState:
    state = _with_model(state, event.model, event.needs)
    model = state.models[event.model]
    refusal = _no_service(state, model, now)
    if refusal is not None:
        effects.append(on.LoadSettledEffect(event.model, refusal))
        later = (event.pin or state.pinned(model)) and state.lacks_npu(model)
        return state.change(event.model, pinned=model.pinned or event.pin, load_ticket=0) if later else state
    keep_alive = model.keep_alive if event.keep_alive is None else event.keep_alive
    pinned = model.pinned or event.pin
    state = state.change(event.model, keep_alive=keep_alive, keep_alive_after_request=None, pinned=pinned)
    if model.phase == "ready":
        effects.append(on.LoadSettledEffect(event.model))
        if model.unload_when_idle:
            effects.append(on.UnloadSettledEffect(event.model, closed=False))
        return state.change(event.model, last_used=now, unload_when_idle=False)
    if model.phase == "loading" or model.load_ticket is not None:
        return state
    return state.change(event.model, load_ticket=event.ticket)


def _unload(state: DispatchState, event: on.UnloadEvent, now: float, effects: list[DispatchEffect]) -> DispatchState:
    model = state.models.get(event.model)
    if model is None or model.phase == "cold":
        effects.append(on.UnloadSettledEffect(event.model, closed=False))
    if model is None:
        return state
    if model.load_ticket is not None or model.phase == "loading":
        refusal = RunnerLost(f"{event.model} was unloaded before it was ready.", cause="unloaded")
        effects.append(on.LoadSettledEffect(event.model, refusal))
    state = state.change(
        event.model, pinned=False, keep_alive=None, load_ticket=None, load_failed=False,
        unload_when_idle=model.phase == "ready",
    )  # fmt: skip
    return _close(state, event.model, now, effects, None) if model.phase == "loading" else state


def _measured(
    state: DispatchState, event: on.MemoryMeasuredEvent, now: float, effects: list[DispatchEffect]
) -> DispatchState:
    for name, size in event.sizes.items():
        state = state.change(name, memory=size)
    state = state.change(event.model, waits_for_models=frozenset())
    match placement.plan(state, event.model, event.available):
        case placement.Fits(domain):
            effects.append(on.StartLoadEffect(event.model, domain))
            return state.change(event.model, phase="loading", since=now, domain=domain, load_failed=False)
        case placement.Evict(models):
            for name in sorted(models):
                state = _close(state, name, now, effects, None)
            return state
        case placement.Await(models):
            return state.change(event.model, waits_for_models=models)
        case refusal:
            state = state.change(event.model, error=refusal, load_failed=True)
            return _give_up(state, event.model, refusal, effects)


def _ready(
    state: DispatchState, event: on.EngineReadyEvent, now: float, effects: list[DispatchEffect]
) -> DispatchState:
    model = state.models[event.model]
    if model.phase != "loading":
        return state
    effects.append(on.LoadSettledEffect(event.model))
    return state.change(
        event.model, phase="ready", since=now, last_used=now, slots=max(1, event.slots), memory=event.memory,
        load_ticket=None, load_seconds=now - model.since, error=None,
    )  # fmt: skip


def _lost(state: DispatchState, event: on.EngineLostEvent, now: float, effects: list[DispatchEffect]) -> DispatchState:
    model = state.models[event.model]
    if model.phase not in ("loading", "ready"):
        return state
    loading = model.phase == "loading"
    crashed = not loading or isinstance(event.error, RunnerLost)
    effects.append(on.ReportLossEffect(model.name, event.error, None if loading else restart_reason(event.error)))
    if crashed:
        state = state.put(_after_crash(model, now))
    state = _close(state, model.name, now, effects, event.error)
    state = state.change(model.name, unload_when_idle=False, error=event.error, load_failed=loading)
    # Whoever waits for a load that failed, or for a model that keeps dying, would wait for the same again.
    if loading or state.models[model.name].barred_until > now:
        state = _give_up(state, model.name, event.error, effects)
    return state.change(model.name, load_ticket=0) if crashed and state.pinned(model) else state


def _after_crash(model: ModelState, now: float) -> ModelState:
    crashes = (*(moment for moment in model.crashes if moment > now - CRASH_MEMORY), now)
    if len(crashes) > len(BACK_OFF):
        return replace(model, crashes=(), retry_at=now + BAR, barred_until=now + BAR)
    return replace(model, crashes=crashes, retry_at=now + BACK_OFF[len(crashes) - 1])


def _closed(
    state: DispatchState, event: on.EngineClosedEvent, now: float, effects: list[DispatchEffect]
) -> DispatchState:
    effects.append(on.UnloadSettledEffect(event.model, closed=True))
    return state.change(
        event.model, phase="cold", since=now, running=frozenset(), unload_when_idle=False, domain=None,
        keep_alive_after_request=None,
    )  # fmt: skip


# ── what the operator and the board do ───────────────────────────────────────────────────────────


def _npu_unavailable(
    state: DispatchState, event: on.NpuUnavailableEvent, now: float, effects: list[DispatchEffect]
) -> DispatchState:
    state = replace(state, unavailable_reason=event.reason)
    if event.reason is None:
        return _forgive(state)
    for model in state.models.values():
        if not model.needs.npu:
            continue
        there = model.phase in ("loading", "ready")
        if model.load_ticket is not None or model.phase == "loading":
            effects.append(on.LoadSettledEffect(model.name, event.reason))
        if there:
            lost: RestartReason | None = "npu_unavailable" if model.phase == "ready" else None
            effects.append(on.ReportLossEffect(model.name, event.reason, lost))
            state = _close(state, model.name, now, effects, event.reason)
        kept = state.pinned(model) and (there or model.load_ticket is not None)
        state = state.change(model.name, load_ticket=0 if kept else None)
    return state


def _limits_changed(
    state: DispatchState, event: on.LimitsChangedEvent, now: float, effects: list[DispatchEffect]
) -> DispatchState:
    return replace(state if event.limits == state.limits else _forgive(state), limits=event.limits)


def _forgive(state: DispatchState) -> DispatchState:
    """What has changed may be what failed the loads until now."""
    return replace(state, models={name: replace(model, load_failed=False) for name, model in state.models.items()})


def _drain(state: DispatchState, event: on.DrainEvent, now: float, effects: list[DispatchEffect]) -> DispatchState:
    for name in state.models:
        state = _give_up(state, name, _shutting_down(), effects)
    return replace(state, draining=True)


def _stop(state: DispatchState, event: on.StopEvent, now: float, effects: list[DispatchEffect]) -> DispatchState:
    for model in state.models.values():
        if model.phase in ("loading", "ready"):
            state = _close(state, model.name, now, effects, _shutting_down())
    return state


def _tick(state: DispatchState, event: on.TickEvent, now: float, effects: list[DispatchEffect]) -> DispatchState:
    return state


_RECORDERS: Mapping[type, Callable[[DispatchState, Any, float, list[DispatchEffect]], DispatchState]] = {
    on.SubmitEvent: _submit,
    on.RequestGoneEvent: _gone,
    on.LoadEvent: _load,
    on.UnloadEvent: _unload,
    on.MemoryMeasuredEvent: _measured,
    on.EngineReadyEvent: _ready,
    on.EngineLostEvent: _lost,
    on.EngineClosedEvent: _closed,
    on.NpuUnavailableEvent: _npu_unavailable,
    on.LimitsChangedEvent: _limits_changed,
    on.DrainEvent: _drain,
    on.StopEvent: _stop,
    on.TickEvent: _tick,
}


# ── what follows ─────────────────────────────────────────────────────────────────────────────────


def _settle(state: DispatchState, now: float, effects: list[DispatchEffect], *, measured: bool) -> DispatchState:
    state = _refuse_overdue(state, now, effects)
    while (turn := _next_turn(state)) is not None:
        name, entry = turn
        model = state.models[name]
        effects.append(on.StartRunEffect(entry.ticket, name))
        state = replace(state, runs=state.runs + 1).change(
            name,
            queue=model.queue.start(entry.ticket),
            running=model.running | {entry.ticket},
            keep_alive_after_request=entry.keep_alive,
            last_turn=state.runs + 1,
        )
    for model in state.models.values():
        if state.idle_deadline(model) <= now:
            state = _close(state, model.name, now, effects, None)
    # One load at a time, since a load that is under way has not taken its memory yet (and two at once crash
    # runtime 1.3.0, reference 2.1); a measurement whose plan was to wait is repeated when something happened.
    if not measured and not any(model.phase in ("loading", "closing") for model in state.models.values()):
        candidates = [model for model in state.models.values() if state.may_load(model) and model.retry_at <= now]
        if candidates:
            effects.append(on.MeasureMemoryEffect(min(candidates, key=lambda model: model.claim).name))
    return state


def _next_turn(state: DispatchState) -> tuple[str, QueueEntry] | None:
    """Who may start next: models take turns on the NPU, clients take turns on a model."""
    heads = [(model, entry) for model in state.models.values() if (entry := _head(state, model)) is not None]
    holders = {model.name for model in state.models.values() if model.needs.npu and model.running}
    on_npu = [model.name for model, _ in heads if model.needs.npu]

    def may_start(model: ModelState) -> bool:
        if not model.needs.npu:
            return True
        if model.name in holders:  # it goes on adding runs only while no other model waits for its turn
            return all(name in holders for name in on_npu)
        return len(holders) < state.limits.npu_parallel

    able = [(model, entry) for model, entry in heads if may_start(model)]
    if not able:
        return None
    model, entry = min(able, key=lambda pair: pair[0].last_turn)
    return model.name, entry


def _head(state: DispatchState, model: ModelState) -> QueueEntry | None:
    """A model for whose end another one waits serves only who came before that one was wanted."""
    if model.phase != "ready" or model.unload_when_idle or len(model.running) >= model.slots:
        return None
    claims = [
        other.claim for other in state.models.values() if model.name in other.waits_for_models and state.may_load(other)
    ]
    return model.queue.next(min(claims, default=None))


def _refuse_overdue(state: DispatchState, now: float, effects: list[DispatchEffect]) -> DispatchState:
    limit = state.limits.queue_seconds
    for model in state.models.values():
        for entry in model.queue.entries if _patience(state, model) <= now else ():
            if entry.since + limit <= now:
                sentence = f"The request waited {limit:.0f} s for {model.name}, which is the limit."
                effects.append(on.RefuseEffect(entry.ticket, _busy(state, model, sentence)))
                state = state.change(model.name, queue=state.models[model.name].queue.leave(entry.ticket))
    return state


def _close(
    state: DispatchState, name: str, now: float, effects: list[DispatchEffect], reason: ExoRkllmError | None
) -> DispatchState:
    effects.append(on.CloseEngineEffect(name, reason))
    return state.change(name, phase="closing", since=now, running=frozenset())


def _give_up(state: DispatchState, name: str, error: ExoRkllmError, effects: list[DispatchEffect]) -> DispatchState:
    """Everybody who waits for the model is told why not, and nobody asks for it any more."""
    queue = state.models[name].queue
    for entry in queue.entries:
        effects.append(on.RefuseEffect(entry.ticket, error))
        queue = queue.leave(entry.ticket)
    effects.append(on.LoadSettledEffect(name, error))
    return state.change(name, queue=queue, load_ticket=None, waits_for_models=frozenset())


def _with_model(state: DispatchState, name: str, needs: ModelNeeds) -> DispatchState:
    model = state.models.get(name)
    return state.put(ModelState(name, needs) if model is None else replace(model, needs=needs))


def _no_service(state: DispatchState, model: ModelState, now: float) -> ExoRkllmError | None:
    if state.draining:
        return _shutting_down()
    if state.lacks_npu(model):
        return state.unavailable_reason
    if model.barred_until <= now:
        return None
    cause = model.error.sentence if model.error else "no reason is known."
    return RunnerLost(
        f"{model.name} died {len(BACK_OFF) + 1} times in a row and is not loaded for another "
        f"{model.barred_until - now:.0f} s: {cause}",
        "Look into the log: exo-rkllm logs",
    )


def _queue_full(state: DispatchState, model: ModelState, client: str) -> Busy | None:
    if len(model.queue) >= state.limits.queue:
        return _busy(state, model, f"{len(model.queue)} requests wait for {model.name} already.")
    if (own := model.queue.count(client)) >= state.limits.queue_per_client:
        return _busy(state, model, f"{own} requests of this client wait for {model.name} already.")
    return None


def _shutting_down() -> Busy:
    return Busy("exo-rkllm is shutting down.", "Ask again in a moment.", retry_after=5.0)


def _busy(state: DispatchState, model: ModelState, sentence: str) -> Busy:
    """A place is free when the next run ends; models that share the NPU take turns with this one."""
    sharing = sum(1 for other in state.models.values() if other.needs.npu and other.queue) if model.needs.npu else 1
    seconds = max(1.0, model.run_seconds * max(1, sharing) / model.slots)
    return Busy(sentence, f"Ask again in {seconds:.0f} s.", retry_after=seconds)


def _patience(state: DispatchState, model: ModelState) -> float:
    """When the first of those who wait has waited too long."""
    return min((entry.since + state.limits.queue_seconds for entry in model.queue.entries), default=math.inf)
