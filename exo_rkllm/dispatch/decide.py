"""What dispatch decides: (state, event, now) to (state, effects).

A `Decision` records the event; `settle` then derives from the state alone what follows, so that no order of events can
lose a request or start one twice. Time enters as `now`, memory as an event: nothing here does I/O.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from exo_rkllm.backends.observer import RestartReason, restart_reason
from exo_rkllm.dispatch import events as on
from exo_rkllm.dispatch import placement
from exo_rkllm.dispatch.events import DispatchEffect, DispatchEvent
from exo_rkllm.dispatch.lease import LeaseState
from exo_rkllm.dispatch.queue import FairQueue, QueueEntry
from exo_rkllm.dispatch.state import DispatchState, ModelNeeds, ModelState, evolved
from exo_rkllm.dispatch.turns import following, next_turn
from exo_rkllm.errors import Busy, ExoRkllmError, RunnerLost

# Seconds before an engine that crashed is loaded again, for each crash without an answer in between; after the last
# one, the model is not loaded at all for BAR seconds.
BACK_OFF = (0.0, 2.0, 8.0)
BAR = 120.0
# Crashes further apart than this have nothing to do with each other.
CRASH_MEMORY = 600.0


def decide(state: DispatchState, event: DispatchEvent, now: float) -> tuple[DispatchState, list[DispatchEffect]]:
    """The state after the event, and what is to be done, in this order."""
    decision = Decision(state, now)
    RECORDERS[type(event)](decision, event)
    decision.settle(measured=isinstance(event, on.MemoryMeasuredEvent))
    return decision.state, decision.effects


def deadline(state: DispatchState, now: float) -> float | None:
    """When something is due although nothing happens; None lets the daemon sleep."""
    moments = [
        moment
        for model in state.models.values()
        for moment in (state.idle_deadline(model), _patience(state, model.queue), model.retry_at)
    ]
    moments += [state.lease.deadline(state.limits.lease_seconds), _patience(state, state.lease.queue)]
    return min((moment for moment in moments if now < moment < math.inf), default=None)


@dataclass(slots=True)
class Decision:
    """One decision in the making: the state as it changes, and the effects as they gather."""

    state: DispatchState
    now: float
    effects: list[DispatchEffect] = field(default_factory=list)

    def change(self, name: str, **changes: Any) -> None:
        self.state = self.state.change(name, **changes)

    def register(self, name: str, needs: ModelNeeds) -> ModelState:
        known = self.state.models.get(name)
        model = ModelState(name, needs) if known is None else evolved(known, needs=needs)
        self.state = self.state.put(model)
        return model

    def close(self, name: str, reason: ExoRkllmError | None = None) -> None:
        self.effects.append(on.CloseEngineEffect(name, reason))
        self.change(name, phase="closing", since=self.now, running=frozenset())

    def give_up(self, name: str, error: ExoRkllmError) -> None:
        """Everybody who waits for the model is told why not, and nobody asks for it any more."""
        queue = self.state.models[name].queue
        self.effects += [on.RefuseEffect(entry.ticket, error) for entry in queue.entries]
        queue = queue.leave({entry.ticket for entry in queue.entries})
        self.effects.append(on.LoadSettledEffect(name, error))
        self.change(name, queue=queue, load_ticket=None, waits_for_models=frozenset())

    def forgive(self) -> None:
        """What has changed may be what failed the loads until now."""
        for name in self.state.models:
            self.change(name, load_failed=False)

    # ── requests ─────────────────────────────────────────────────────────────────────────────────

    def submit(self, event: on.SubmitEvent) -> None:
        model = self.register(event.model, event.needs)
        refusal = self.no_service(model) or self.queue_full(model, event.client)
        if refusal is not None:
            self.effects.append(on.RefuseEffect(event.ticket, refusal))
            return
        entry = QueueEntry(event.ticket, event.client, self.now, event.keep_alive, event.background, event.conversation)
        self.change(event.model, queue=model.queue.join(entry))

    def queue_left(self, event: on.QueueLeftEvent) -> None:
        for model in self.state.models.values():
            if (queue := model.queue.leave(event.tickets)) is not model.queue:
                self.change(model.name, queue=queue)

    def request_gone(self, event: on.RequestGoneEvent) -> None:
        model = self.state.models[event.model]
        if event.ticket in model.running:  # otherwise its engine was lost or closed before
            mean, crashes = model.run_seconds, model.crashes
            if event.seconds is not None:
                mean, crashes = 0.7 * mean + 0.3 * event.seconds if mean else event.seconds, ()
            running = model.running - {event.ticket}
            self.change(event.model, running=running, last_used=self.now, run_seconds=mean, crashes=crashes)

    # ── other programs on the NPU ────────────────────────────────────────────────────────────────

    def lease(self, event: on.LeaseEvent) -> None:
        lease, refusal = self.state.lease, self.state.unavailable_reason if self.state.npu_lost else None
        if self.state.draining:
            refusal = _shutting_down()
        elif len(lease.queue) >= self.state.limits.queue:
            refusal = Busy(f"{len(lease.queue)} programs wait for the NPU already.", "Try again later.")
        if refusal is not None:
            self.effects.append(on.RefuseEffect(event.ticket, refusal))
            return
        self.change_lease(replace(lease, queue=lease.queue.join(QueueEntry(event.ticket, event.name, self.now))))

    def lease_over(self, event: on.LeaseOverEvent) -> None:
        self.change_lease(self.state.lease.without(event.ticket))

    def change_lease(self, lease: LeaseState) -> None:
        self.state = evolved(self.state, lease=lease)

    # ── engines ──────────────────────────────────────────────────────────────────────────────────

    def load(self, event: on.LoadEvent) -> None:
        model = self.register(event.model, event.needs)
        pinned = model.pinned or event.pin
        if (refusal := self.no_service(model)) is not None:
            self.effects.append(on.LoadSettledEffect(event.model, refusal))
            if self.state.lacks_npu(model) and (event.pin or self.state.pinned(model)):
                self.change(event.model, pinned=pinned, load_ticket=0)
            return
        keep_alive = model.keep_alive if event.keep_alive is None else event.keep_alive
        self.change(event.model, keep_alive=keep_alive, keep_alive_after_request=None, pinned=pinned)
        if model.phase == "ready":
            self.effects.append(on.LoadSettledEffect(event.model))
            if model.unload_when_idle:
                self.effects.append(on.UnloadSettledEffect(event.model, closed=False))
            self.change(event.model, last_used=self.now, unload_when_idle=False)
        elif model.phase != "loading" and model.load_ticket is None:
            self.change(event.model, load_ticket=event.ticket)

    def unload(self, event: on.UnloadEvent) -> None:
        model = self.state.models.get(event.model)
        if model is None or model.phase == "cold":
            self.effects.append(on.UnloadSettledEffect(event.model, closed=False))
        if model is None:
            return
        if model.load_ticket is not None or model.phase == "loading":
            refusal = RunnerLost(f"{event.model} was unloaded before it was ready.", cause="unloaded")
            self.effects.append(on.LoadSettledEffect(event.model, refusal))
        self.change(event.model, pinned=False, keep_alive=None, load_ticket=None, load_failed=False)
        if model.phase == "loading":
            self.close(event.model)
        elif model.phase == "ready":
            self.change(event.model, unload_when_idle=True)

    def memory_measured(self, event: on.MemoryMeasuredEvent) -> None:
        for name, size in event.sizes.items():
            self.change(name, memory=size)
        self.change(event.model, waits_for_models=frozenset())
        match placement.plan(self.state, event.model, event.available):
            case placement.Fits(domain):
                self.effects.append(on.StartLoadEffect(event.model, domain))
                self.change(event.model, phase="loading", since=self.now, domain=domain, load_failed=False)
            case placement.Evict(models):
                for name in sorted(models):
                    self.close(name)
            case placement.Await(models):
                self.change(event.model, waits_for_models=models)
            case refusal:
                self.change(event.model, error=refusal, load_failed=True)
                self.give_up(event.model, refusal)

    def engine_ready(self, event: on.EngineReadyEvent) -> None:
        model = self.state.models[event.model]
        if model.phase != "loading":
            return
        self.effects.append(on.LoadSettledEffect(event.model))
        seconds = self.now - model.since
        self.change(event.model, phase="ready", since=self.now, last_used=self.now, load_seconds=seconds)
        self.change(event.model, slots=max(1, event.slots), memory=event.memory, load_ticket=None, error=None)

    def engine_lost(self, event: on.EngineLostEvent) -> None:
        model = self.state.models[event.model]
        if model.phase not in ("loading", "ready"):
            return
        loading = model.phase == "loading"
        restart = None if loading else restart_reason(event.error)
        self.effects.append(on.ReportLossEffect(model.name, event.error, restart))
        self.close(model.name, event.error)
        self.change(model.name, unload_when_idle=False, error=event.error, load_failed=loading)
        crash = not loading or isinstance(event.error, RunnerLost)
        if crash:
            self.back_off(model)
        # Whoever waits for a load that failed, or for a model that keeps dying, would wait for the same again.
        if loading or self.state.models[model.name].barred_until > self.now:
            self.give_up(model.name, event.error)
        if crash and self.state.pinned(model):
            self.change(model.name, load_ticket=0)

    def back_off(self, model: ModelState) -> None:
        crashes = (*(moment for moment in model.crashes if moment > self.now - CRASH_MEMORY), self.now)
        if len(crashes) > len(BACK_OFF):
            self.change(model.name, crashes=(), retry_at=self.now + BAR, barred_until=self.now + BAR)
        else:
            self.change(model.name, crashes=crashes, retry_at=self.now + BACK_OFF[len(crashes) - 1])

    def engine_closed(self, event: on.EngineClosedEvent) -> None:
        self.effects.append(on.UnloadSettledEffect(event.model, closed=True))
        self.change(event.model, phase="cold", since=self.now, running=frozenset(), domain=None)
        self.change(event.model, unload_when_idle=False, keep_alive_after_request=None)

    # ── what the operator and the board do ───────────────────────────────────────────────────────

    def npu_unavailable(self, event: on.NpuUnavailableEvent) -> None:
        self.state = evolved(self.state, unavailable_reason=event.reason, npu_lost=event.npu_lost)
        if event.reason is None:
            self.forgive()
            return
        for model in self.state.models.values():
            if not self.state.lacks_npu(model):
                continue
            has_engine = model.phase in ("loading", "ready")
            if model.load_ticket is not None or model.phase == "loading":
                self.effects.append(on.LoadSettledEffect(model.name, event.reason))
            if has_engine:
                restart: RestartReason | None = "npu_unavailable" if model.phase == "ready" else None
                self.effects.append(on.ReportLossEffect(model.name, event.reason, restart))
                self.close(model.name, event.reason)
            returns = self.state.pinned(model) and (has_engine or model.load_ticket is not None)
            self.change(model.name, load_ticket=0 if returns else None)

    def limits_changed(self, event: on.LimitsChangedEvent) -> None:
        if event.limits != self.state.limits:
            self.forgive()
        self.state = evolved(self.state, limits=event.limits)

    def drain(self, event: on.DrainEvent) -> None:
        for name in self.state.models:
            self.give_up(name, _shutting_down())
        for entry in self.state.lease.queue.entries:
            self.refuse_lease(entry, _shutting_down())
        self.state = evolved(self.state, draining=True)

    def stop(self, event: on.StopEvent) -> None:
        for model in self.state.models.values():
            if model.phase in ("loading", "ready"):
                self.close(model.name, _shutting_down())

    def tick(self, event: on.TickEvent) -> None:
        """A deadline changes nothing by itself: `settle` acts on those that have come."""

    # ── what follows ─────────────────────────────────────────────────────────────────────────────

    def settle(self, *, measured: bool) -> None:
        self.refuse_overdue()
        self.expire_lease()
        while (turn := next_turn(self.state)) is not None:
            model, entry = turn
            runs = self.state.runs + 1
            self.state = evolved(self.state, runs=runs)
            if model is None:
                self.effects.append(on.GrantLeaseEffect(entry.ticket))
                self.change_lease(self.state.lease.grant(entry.ticket, self.now, runs))
                continue
            self.effects.append(on.StartRunEffect(entry.ticket, model.name))
            queue, running = model.queue.start(entry.ticket), model.running | {entry.ticket}
            keep_alive = entry.keep_alive
            self.change(model.name, queue=queue, running=running, last_turn=runs, keep_alive_after_request=keep_alive)
            if entry.ticket == model.ahead:
                self.change(model.name, ahead=None)
            if not entry.background and entry.conversation:
                self.change(model.name, hot=entry.conversation[-1])
        self.look_ahead()
        for model in self.state.models.values():
            if self.state.idle_deadline(model) <= self.now:
                self.close(model.name)
        # One load at a time, since a load that is under way has not taken its memory yet (and two at once crash
        # runtime 1.3.0, reference 2.1); a measurement whose plan was to wait is repeated when something happened.
        models = self.state.models.values()
        if not measured and not any(model.phase in ("loading", "closing") for model in models):
            candidates = [model for model in models if self.state.may_load(model) and model.retry_at <= self.now]
            if candidates:
                self.effects.append(on.MeasureMemoryEffect(min(candidates, key=lambda model: model.claim).name))

    def look_ahead(self) -> None:
        """Which run each engine may have ready behind its present one."""
        for model in self.state.models.values():
            ahead = following(self.state, model)
            if ahead == model.ahead:
                continue
            if model.ahead is not None:
                self.effects.append(on.WithdrawEffect(model.ahead, model.name))
            if ahead is not None:
                self.effects.append(on.QueueAheadEffect(ahead, model.name))
            self.change(model.name, ahead=ahead)

    def refuse_overdue(self) -> None:
        """Except for a run that begins now without being told."""
        limit = self.state.limits.queue_seconds
        for model in self.state.models.values():
            begins = None if model.running else model.ahead
            for entry in model.queue.entries:
                if entry.since + limit <= self.now and entry.ticket != begins:
                    sentence = f"The request waited {limit:.0f} s for {model.name}, which is the limit."
                    self.effects.append(on.RefuseEffect(entry.ticket, self.busy(model, sentence)))
                    self.change(model.name, queue=self.state.models[model.name].queue.leave({entry.ticket}))

        for entry in self.state.lease.queue.entries:
            if entry.since + limit <= self.now:
                sentence = f"{entry.client} waited {limit:.0f} s for the NPU, which is the limit."
                self.refuse_lease(entry, Busy(sentence, "exo-rkllm ps shows what computes on it."))

    def refuse_lease(self, entry: QueueEntry, error: ExoRkllmError) -> None:
        self.effects.append(on.RefuseEffect(entry.ticket, error))
        self.change_lease(self.state.lease.without(entry.ticket))

    def expire_lease(self) -> None:
        """Twice: first the holder is told to stop, and then it has lost the NPU."""
        while (ticket := self.state.lease.holder) is not None:
            lease = self.state.lease
            if self.now < lease.deadline(self.state.limits.lease_seconds):
                return
            self.effects.append(on.ExpireLeaseEffect(ticket, ended=lease.expired))
            self.change_lease(lease.without(ticket) if lease.expired else replace(lease, expired=True))

    # ── refusals ─────────────────────────────────────────────────────────────────────────────────

    def no_service(self, model: ModelState) -> ExoRkllmError | None:
        if self.state.draining:
            return _shutting_down()
        if self.state.lacks_npu(model):
            return self.state.unavailable_reason
        if model.barred_until <= self.now:
            return None
        cause = model.error.sentence if model.error else "no reason is known."
        return RunnerLost(
            f"{model.name} died {len(BACK_OFF) + 1} times in a row and is not loaded for another "
            f"{model.barred_until - self.now:.0f} s: {cause}",
            "Look into the log: exo-rkllm logs",
        )

    def queue_full(self, model: ModelState, client: str) -> Busy | None:
        if len(model.queue) >= self.state.limits.queue:
            return self.busy(model, f"{len(model.queue)} requests wait for {model.name} already.")
        if (own := model.queue.count(client)) >= self.state.limits.queue_per_client:
            return self.busy(model, f"{own} requests of this client wait for {model.name} already.")
        return None

    def busy(self, model: ModelState, sentence: str) -> Busy:
        """A place is free when the next run ends; models that share the NPU take turns with this one."""
        sharing = [other for other in self.state.models.values() if model.needs.npu and other.needs.npu and other.queue]
        seconds = max(1.0, model.run_seconds * max(1, len(sharing)) / model.slots)
        return Busy(sentence, f"Ask again in {seconds:.0f} s.", retry_after=seconds)


RECORDERS: Mapping[type, Callable[[Decision, Any], None]] = {
    on.SubmitEvent: Decision.submit,
    on.QueueLeftEvent: Decision.queue_left,
    on.RequestGoneEvent: Decision.request_gone,
    on.LoadEvent: Decision.load,
    on.UnloadEvent: Decision.unload,
    on.MemoryMeasuredEvent: Decision.memory_measured,
    on.EngineReadyEvent: Decision.engine_ready,
    on.EngineLostEvent: Decision.engine_lost,
    on.EngineClosedEvent: Decision.engine_closed,
    on.NpuUnavailableEvent: Decision.npu_unavailable,
    on.LeaseEvent: Decision.lease,
    on.LeaseOverEvent: Decision.lease_over,
    on.LimitsChangedEvent: Decision.limits_changed,
    on.DrainEvent: Decision.drain,
    on.StopEvent: Decision.stop,
    on.TickEvent: Decision.tick,
}


def _patience(state: DispatchState, queue: FairQueue) -> float:
    """When the first of those who wait has waited too long."""
    return min((entry.since + state.limits.queue_seconds for entry in queue.entries), default=math.inf)


def _shutting_down() -> Busy:
    return Busy("exo-rkllm is shutting down.", "Ask again in a moment.", retry_after=5.0)
