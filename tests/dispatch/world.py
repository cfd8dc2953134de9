"""A world for the decisions: it obeys every effect at once or when told to, and checks each against the rules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from exo_rkllm.dispatch import events as on
from exo_rkllm.dispatch.decide import deadline, decide
from exo_rkllm.dispatch.events import DispatchEffect, DispatchEvent
from exo_rkllm.dispatch.placement import WINDOW, windows
from exo_rkllm.dispatch.state import DispatchLimits, DispatchState, ModelNeeds
from exo_rkllm.errors import ExoRkllmError

GB = 1_000_000_000


@dataclass
class World:
    """`needs` are the models that exist; memory is what the machine has beyond the reserve."""

    needs: Mapping[str, ModelNeeds]
    limits: DispatchLimits = field(default_factory=lambda: DispatchLimits(reserve=0))
    memory: int = 8 * GB
    slots: Mapping[str, int] = field(default_factory=dict)
    state: DispatchState = field(init=False)
    now: float = 1000.0
    tickets: int = 0
    waiting: dict[int, str] = field(default_factory=dict)
    running: dict[int, str] = field(default_factory=dict)
    refused: dict[int, ExoRkllmError] = field(default_factory=dict)
    over: set[int] = field(default_factory=set)
    engines: dict[str, str] = field(default_factory=dict)  # model: loading, ready, closing
    settled: list[tuple[str, ExoRkllmError | None]] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    starts: list[tuple[str, str]] = field(default_factory=list)  # model and client, in order
    clients: dict[int, str] = field(default_factory=dict)
    ahead: dict[str, int] = field(default_factory=dict)  # model: the run that begins by itself
    lease: int | None = None
    leases_waiting: set[int] = field(default_factory=set)
    leases_granted: list[int] = field(default_factory=list)
    leases_expired: list[int] = field(default_factory=list)
    events: list[DispatchEvent] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.state = DispatchState(self.limits)

    # ── what a test does ─────────────────────────────────────────────────────────────────────────

    def happen(self, event: DispatchEvent) -> None:
        self.events.append(event)
        if len(self.events) > 1:
            return
        while self.events:
            self.state, effects = decide(self.state, self.events[0], self.now)
            for effect in effects:
                self.obey(effect)
            del self.events[0]
        self.check()

    def submit(self, model: str, client: str = "", keep_alive: float | None = None) -> int:
        self.tickets += 1
        self.waiting[self.tickets] = model
        self.clients[self.tickets] = client
        self.happen(on.SubmitEvent(self.tickets, model, self.needs[model], client, keep_alive))
        return self.tickets

    def ask_lease(self, name: str = "frigate") -> int:
        self.tickets += 1
        self.leases_waiting.add(self.tickets)
        self.happen(on.LeaseEvent(self.tickets, name))
        return self.tickets

    def end_lease(self, ticket: int) -> None:
        """Given back, or its holder died; also for one that waits."""
        self.leases_waiting.discard(ticket)
        self.lease = None if self.lease == ticket else self.lease
        self.happen(on.LeaseOverEvent(ticket))

    def load(self, model: str, keep_alive: float | None = None, *, pin: bool = False) -> None:
        self.tickets += 1
        self.happen(on.LoadEvent(self.tickets, model, self.needs[model], keep_alive, pin))

    def leave(self, ticket: int) -> None:
        """The client is gone; a run is ended."""
        self.over.add(ticket)
        if self.waiting.pop(ticket, None):
            self.happen(on.QueueLeftEvent(frozenset({ticket})))
        else:
            self.happen(on.RequestGoneEvent(ticket, self.running.pop(ticket)))

    def finish(self, ticket: int, seconds: float = 1.0) -> None:
        model = self.running.pop(ticket)
        self.over.add(ticket)
        self.happen(on.RequestGoneEvent(ticket, model, seconds))

    def loaded(self, model: str) -> None:
        self.engines[model] = "ready"
        self.happen(on.EngineReadyEvent(model, self.slots.get(model, 1)))

    def lost(self, model: str, error: ExoRkllmError) -> None:
        self.engines[model] = "lost"
        self._fail_runs(model)
        self.happen(on.EngineLostEvent(model, error))

    def closed(self, model: str) -> None:
        assert self.engines.pop(model) == "closing"
        self.happen(on.EngineClosedEvent(model))

    def wait(self, seconds: float) -> None:
        """Time passes; the alarm rings whenever the state asked for it."""
        until = self.now + seconds
        while (due := deadline(self.state, self.now)) is not None and due <= until:
            assert due > self.now, "an alarm in the past would ring for ever"
            self.now = due
            self.happen(on.TickEvent())
        self.now = until

    def up(self, *models: str) -> None:
        """Loads, and has them ready."""
        for model in models:
            self.load(model)
            self.loaded(model)

    # ── what the daemon would do ─────────────────────────────────────────────────────────────────

    def obey(self, effect: DispatchEffect) -> None:
        self.log.append(repr(effect))
        match effect:
            case on.StartRunEffect(ticket, model):
                assert self.waiting.pop(ticket) == model, "started twice, or after it left"
                assert self.engines[model] == "ready"
                assert self.ahead.pop(model, ticket) == ticket, "another one has begun by itself"
                self.running[ticket] = model
                self.starts.append((model, self.clients[ticket]))
            case on.QueueAheadEffect(ticket, model):
                assert self.waiting[ticket] == model
                assert model not in self.ahead, "one a model"
                assert model in self.running.values()
                self.ahead[model] = ticket
            case on.WithdrawEffect(ticket, model):
                assert self.ahead.pop(model) == ticket
            case on.RefuseEffect(ticket, error) if ticket in self.leases_waiting:
                self.leases_waiting.remove(ticket)
                self.refused[ticket] = error
            case on.GrantLeaseEffect(ticket):
                self.leases_waiting.remove(ticket)
                assert self.lease is None, "one lease at a time"
                assert not [model for model in self.running.values() if self.needs[model].npu], "and nothing of ours"
                assert not [model for model in self.ahead if self.needs[model].npu], "nor what begins by itself"
                self.lease = ticket
                self.leases_granted.append(ticket)
            case on.ExpireLeaseEffect(ticket, ended):
                assert self.lease == ticket
                self.leases_expired.append(ticket)
                self.lease = None if ended else ticket
            case on.RefuseEffect(ticket, error):
                del self.waiting[ticket]
                assert error.sentence
                self.refused[ticket] = error
            case on.MeasureMemoryEffect(model):
                self.happen(on.MemoryMeasuredEvent(model, self.available, self.sizes))
            case on.StartLoadEffect(model, domain):
                assert not {"loading", "closing"} & set(self.engines.values()), "one load at a time"
                assert self.needs[model].memory <= self.available, "a load that cannot fit"
                assert (domain is None) == (self.needs[model].npu == 0)
                self.engines[model] = "loading"
            case on.CloseEngineEffect(model, _):
                assert self.engines[model] in ("loading", "ready", "lost")
                self.engines[model] = "closing"
                self._fail_runs(model)
            case on.LoadSettledEffect(model, error):
                self.settled.append((model, error))
            case on.UnloadSettledEffect() | on.ReportLossEffect():
                pass

    def _fail_runs(self, model: str) -> None:
        for ticket in [ticket for ticket, name in self.running.items() if name == model]:
            del self.running[ticket]
            self.over.add(ticket)

    @property
    def sizes(self) -> dict[str, int]:
        return {name: self.needs[name].memory for name in self.engines if self.needs[name].memory}

    @property
    def available(self) -> int:
        return self.memory - sum(self.needs[name].memory for name in self.engines)

    # ── what must hold at any time ───────────────────────────────────────────────────────────────

    def check(self) -> None:
        held = Counter(entry.ticket for model in self.state.models.values() for entry in model.queue.entries)
        assert held == Counter(list(self.waiting)), "every waiting request stands in exactly one line"
        runs = Counter(ticket for model in self.state.models.values() for ticket in model.running)
        assert runs == Counter(list(self.running)), "and every running one is known to run once"
        assert not self.over & set(held), "whoever left waits no more"
        assert self.state.lease.holder == self.lease
        assert {entry.ticket for entry in self.state.lease.queue.entries} == self.leases_waiting
        assert self.lease is None or not any(self.needs[model].npu for model in self.running.values()), "two at once"
        on_npu = {model for model in self.running.values() if self.needs[model].npu}
        assert len(on_npu) <= self.limits.npu_parallel, "the NPU computes for one model at a time"
        for model, count in Counter(self.running.values()).items():
            assert count <= self.slots.get(model, 1)
        for model, ticket in self.ahead.items():
            assert self.waiting[ticket] == model, "whoever is next waits until then"
            assert self.engines[model] == "ready"
            assert model in self.running.values()
        phases = {name: model.phase for name, model in self.state.models.items() if model.phase != "cold"}
        assert phases == self.engines
        self._check_domains()

    def _check_domains(self) -> None:
        used: Counter[int] = Counter()
        for model in self.state.models.values():
            if model.phase in ("loading", "ready") and model.domain is not None:
                for index in range(windows(model.needs.npu)):
                    used[model.domain + index] += min(WINDOW, model.needs.npu - index * WINDOW)
        assert all(domain < self.limits.domains and size <= WINDOW for domain, size in used.items())
