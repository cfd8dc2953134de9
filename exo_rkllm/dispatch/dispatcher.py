"""The dispatcher: carries out what `decide` wants, and hands each answer from its engine to whoever asked.

One request, from the top: `generate` posts SubmitEvent; the run loop (`_post`) lets `decide` change the state and
carries out the effects; StartRunEffect wakes the ActiveRequest; from there on `generate` reads the engine's iterator
itself, so that a token passes no queue, no task and no decision. Whatever ends it posts RequestGoneEvent, and the loop
starts the next one.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

from exo_rkllm.backends.base import (
    Capabilities,
    Engine,
    Finish,
    GenerationEvent,
    GenerationRequest,
    Model,
    Piece,
    Progress,
    TakePiece,
)
from exo_rkllm.backends.observer import AnswerReport, NullObserver, Observer, RestartReport
from exo_rkllm.backends.prefix_plan import PrefixTally
from exo_rkllm.chat.overflow import with_shares
from exo_rkllm.chat.parser import ResponseParser
from exo_rkllm.chat.prompt import Prompt
from exo_rkllm.dispatch import events as on
from exo_rkllm.dispatch.abandoned import AbandonedRuns
from exo_rkllm.dispatch.affinity import conversation_keys, is_background
from exo_rkllm.dispatch.ahead import RunsAhead
from exo_rkllm.dispatch.decide import deadline, decide
from exo_rkllm.dispatch.departures import QueueDepartures
from exo_rkllm.dispatch.events import DispatchEffect, DispatchEvent
from exo_rkllm.dispatch.followers import Followers
from exo_rkllm.dispatch.lease import NpuLease
from exo_rkllm.dispatch.life import EngineLife
from exo_rkllm.dispatch.placement import placed
from exo_rkllm.dispatch.progress import QueueProgress
from exo_rkllm.dispatch.prompts import PromptMaker
from exo_rkllm.dispatch.request import ActiveRequest, copy_of, log_line
from exo_rkllm.dispatch.state import DispatchLimits, DispatchState, ModelNeeds
from exo_rkllm.dispatch.status import DispatchOverview, DispatchStatus, PictureTally, dispatch_overview, dispatch_status
from exo_rkllm.dispatch.stuck import StuckModel, stuck_models
from exo_rkllm.dispatch.waiters import Waiters
from exo_rkllm.errors import ContextOverflow, ExoRkllmError, PictureError, RunError, RunnerLost

log = logging.getLogger(__name__)


class Dispatcher:
    """Lives on one event loop.

    `find` gives the model of a name or raises; `engine` makes the engine of a model, unloaded; `needs` says what
    loading it takes, `available` how many bytes the system has for it. `prepare` makes of a request with images what
    the model's engine takes, or refuses it. `prefixes` tells what a model has kept of conversations.
    """

    def __init__(
        self,
        *,
        find: Callable[[str], Model],
        engine: Callable[[Model], Engine],
        needs: Callable[[Model], ModelNeeds],
        available: Callable[[], int],
        observer: Observer | None = None,
        limits: DispatchLimits = DispatchLimits(),  # noqa: B008 - a frozen value
        prepare: Callable[[GenerationRequest, Model], Awaitable[GenerationRequest]] | None = None,
        prefixes: Callable[[str], PrefixTally] | None = None,
    ) -> None:
        self._find = find
        self._make = engine
        self._needs = needs
        self._available = available
        self._prepare = prepare
        self._prefixes = prefixes
        self._observer = NullObserver() if observer is None else observer
        self._state = DispatchState(limits)
        self._tickets = 0
        self._requests: dict[int, ActiveRequest] = {}
        self._leases: dict[int, NpuLease] = {}
        self._pictures: dict[str, PictureTally] = {}
        self._models: dict[str, Model] = {}
        self._lives: dict[str, EngineLife] = {}
        self._loading = Waiters[None]()
        self._unloading = Waiters[bool]()
        self._events: deque[DispatchEvent] = deque()
        self._progress = QueueProgress(lambda: self._state, self._requests)
        self._deciding = False
        self._timer: asyncio.TimerHandle | None = None
        self._abandoned = AbandonedRuns(self._post, self._engine)
        self._departures = QueueDepartures(self._post)
        self._prompts = PromptMaker()
        self._ahead = RunsAhead(self._prompts, lambda: self._state, self._requests, self._engine)
        self._followers = Followers(lambda: dispatch_overview(self._state))

    # ── one request ──────────────────────────────────────────────────────────────────────────────

    async def generate(
        self,
        request: GenerationRequest,
        *,
        client: str = "",
        keep_alive: float | None = None,
        deliver: TakePiece | None = None,
    ) -> AsyncGenerator[GenerationEvent, None]:
        """Progress while it waits, the pieces, one Finish; a refusal is raised before any piece is yielded.

        `client` is whom the queue is fair to. `keep_alive` is how many seconds the model stays afterwards (0: not at
        all, negative: for ever). Closing the iterator ends this request only, wherever it is. Read it without waiting
        for a slow client of your own: the next request starts when the engine has ended this one. `deliver` may be
        given a piece while you wait for it, and returns False where it is to be yielded instead.
        """
        model = self._find(request.model)
        if self._prepare is not None and any(message.images for message in request.messages):
            began = time.monotonic()
            try:
                request = await self._prepare(request, model)
            except ExoRkllmError as error:
                self._count(AnswerReport(model.id, error.code, time.monotonic() - began))
                raise
        if is_background(request):
            request = replace(request, background=True)
        active = ActiveRequest(self._ticket(), request, model, client, time.monotonic())
        self._requests[active.ticket] = active
        try:
            needs, conversation = self._current_needs(model), conversation_keys(request)
            self._post(
                on.SubmitEvent(active.ticket, model.id, needs, client, keep_alive, request.background, conversation)
            )
            while isinstance(turn := await active.turn(), Progress):
                if turn.stage == "queued" and turn.done <= 1:
                    self._ahead.render(active)
                yield turn
            engine, early = turn, active.early
            prompt = await (self.render(request, model, engine.capabilities) if early is None else early.of(engine))
            active.one_run = prompt.structure is None
            if active.error is not None:  # the engine went while the template ran
                raise active.error
            for ignored in prompt.ignored:
                yield ignored
            parser = ResponseParser(prompt)
            stream = self._prompts.answer(engine, prompt, parser)
            try:
                async for event in stream:
                    if type(event) is Piece:
                        if parser.stopped:
                            continue  # what the engine still says until it heard of it
                        if active.first_token_at is None and deliver is not None and active.one_run:
                            engine.shortcut(request.id, active.shortcut(parser, deliver))
                        active.count_token(time.monotonic())
                        for piece in parser.feed(event):
                            yield piece
                        if parser.stopped:
                            await engine.abort(request.id)
                    elif type(event) is Finish:
                        active.complete(event, time.monotonic())
                    else:
                        self._ahead.queue(model.id)
                        yield event
            finally:
                await stream.aclose()
            if active.finish is None:
                raise RunError(f"The engine of {model.id} ended an answer without saying so.", "exo-rkllm logs")
            self._free_place(active, engine)
            await asyncio.sleep(0)  # the next run starts before this answer's end is written
            for last in parser.end(active.finish):
                active.finish = last if type(last) is Finish else active.finish
                yield last
        except ExoRkllmError as error:
            if isinstance(error, ContextOverflow):
                error = await asyncio.to_thread(with_shares, error, request)
            active.error = active.error or copy_of(error)
            raise active.error from None
        finally:
            if active.early is not None:
                active.early.close()
            self._leave(active)

    def _free_place(self, active: ActiveRequest, engine: Engine, *, left: bool = False) -> None:
        """The engine has ended the answer, and may begin the next one; or it does as soon as what was `left` or
        withdrawn is over."""
        active.place_free = True
        if self._ahead.settles(active.model.id) or left:
            self._abandoned.add(active, engine)
        else:
            self._post(on.RequestGoneEvent(active.ticket, active.model.id, active.run_seconds))

    def _leave(self, active: ActiveRequest) -> None:
        """However it ended: its place is free at once, or once the engine has stopped what nobody reads any more."""
        del self._requests[active.ticket]
        name, engine = active.model.id, active.engine
        report = active.report(time.monotonic())
        self._count(report)
        if engine is None:
            self._departures.add(active, report)
            return
        log.info("%s", log_line(report), extra=active.log_fields)
        if isinstance(active.error, RunnerLost) and engine is self._engine(name):
            # Before its place is free: the next request must not start on an engine that is dead.
            self._post(on.EngineLostEvent(name, active.error))
        if not active.place_free:
            self._free_place(active, engine, left=active.finish is None and active.error is None)

    def _count(self, report: AnswerReport) -> None:
        self._observer.answered(report)
        if report.usage.images or report.reason == PictureError.code:
            self._pictures[report.model] = self._pictures.get(report.model, PictureTally()).plus(report)

    async def render(self, request: GenerationRequest, model: Model, capabilities: Capabilities) -> Prompt:
        """The prompt of a request that a model with these capabilities would be given."""
        return await self._prompts.render(request, model, capabilities)

    # ── what else may be asked ───────────────────────────────────────────────────────────────────

    async def load(self, name: str, keep_alive: float | None = None, *, pin: bool = False) -> None:
        """Returns when the model is ready, or raises why it cannot be; a pinned one is never unloaded by itself."""
        model = self._find(name)
        waiter = self._loading.add(model.id)
        self._post(on.LoadEvent(self._ticket(), model.id, self._current_needs(model), keep_alive, pin))
        await waiter

    async def unload(self, name: str) -> bool:
        """Lets what runs on it end, then frees it; False where it was not loaded, or somebody loads it meanwhile."""
        name = name if name in self._models else self._find(name).id
        waiter = self._unloading.add(name)
        self._post(on.UnloadEvent(name))
        return await waiter

    async def stop(self, request_id: str) -> bool:
        """End one request, whoever reads it; False where there is none of that id."""
        active = next((one for one in self._requests.values() if one.request.id == request_id), None)
        if active is not None:
            await active.stop()
        return active is not None

    @asynccontextmanager
    async def lease(self, name: str) -> AsyncGenerator[NpuLease, None]:
        """Another program's turn on the NPU: entered once no model of ours computes there, and none starts until it is
        left or has ended. Raises why there is none: no NPU, too many that wait, a wait longer than the limit."""
        lease = NpuLease(self._ticket(), name, time.monotonic())
        self._leases[lease.ticket] = lease
        try:
            self._post(on.LeaseEvent(lease.ticket, name))
            await lease.granted
            yield lease
        finally:
            del self._leases[lease.ticket]
            self._post(on.LeaseOverEvent(lease.ticket))

    def npu_unavailable(self, reason: ExoRkllmError, *, npu_lost: bool = True) -> None:
        """Nothing can use the NPU any more: what runs fails with the reason, what waits goes on waiting.

        `npu_lost` is False where only the vendor's library is missing, which not every model on the NPU takes.
        """
        self._post(on.NpuUnavailableEvent(reason, npu_lost))

    def npu_available(self) -> None:
        self._post(on.NpuUnavailableEvent(None))

    def reconfigure(self, limits: DispatchLimits) -> None:
        self._post(on.LimitsChangedEvent(limits))

    def beat(self) -> None:
        """One decision that changes nothing, for a watchdog that wants to see one taken."""
        self._post(on.TickEvent())

    def stuck(self) -> tuple[StuckModel, ...]:
        return stuck_models(self._state, time.monotonic())

    async def drain(self, timeout: float) -> None:
        """No new requests; what runs may end within so many seconds; then every engine is closed."""
        self._post(on.DrainEvent())
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._followers.until(lambda now: not now.running), timeout)
        self._post(on.StopEvent())
        await asyncio.gather(*(life.over() for life in self._lives.values()))
        await self._abandoned.cancel()
        await self._prompts.close()

    # ── what is to be seen ───────────────────────────────────────────────────────────────────────

    def subscribe(self, changed: asyncio.Event | None = None) -> AsyncGenerator[DispatchOverview, None]:
        """The overview now, and again after every change; changes that come faster than they are read are one.

        A caller that also follows something else brings the event, and sets it for that.
        """
        return self._followers.follow(asyncio.Event() if changed is None else changed)

    def overview(self) -> DispatchOverview:
        """The status as far as the run loop's own state tells it, made once for all who follow it."""
        return self._followers.overview()

    @property
    def running_tokens(self) -> int:
        """Of the answers that are being written."""
        return sum(request.tokens for request in self._requests.values())

    def status(self) -> DispatchStatus:
        """Everything, which asks the system for the memory of each model's process."""
        engines = {name: engine for name in self._lives if (engine := self._engine(name)) is not None}
        prefixes = {} if self._prefixes is None else {name: self._prefixes(name) for name in self._models}
        return dispatch_status(
            self._state, self._models, engines, self._requests, self._leases, self._pictures, prefixes
        )

    # ── the run loop ─────────────────────────────────────────────────────────────────────────────

    def _post(self, event: DispatchEvent) -> None:
        """The only place where the state changes; what an effect brings about waits for its turn."""
        self._departures.flush()
        self._events.append(event)
        if self._deciding:
            return
        self._deciding = True
        before = self._state
        try:
            while self._events:
                self._state, effects = decide(self._state, self._events.popleft(), time.monotonic())
                for effect in effects:
                    self._carry_out(effect)
        finally:
            self._deciding = False
        self._set_timer()
        self._progress.moved(
            [name for name, model in self._state.models.items() if model is not before.models.get(name)]
        )
        self._followers.tell()

    def _carry_out(self, effect: DispatchEffect) -> None:
        match effect:
            case on.StartRunEffect(ticket, name):
                self._ahead.started(name)
                if (engine := self._engine(name)) is not None:  # which it is: runs start on engines that are ready
                    self._requests[ticket].start(engine, self._state.models[name], time.monotonic())
            case on.QueueAheadEffect(ticket, name):
                self._ahead.render(self._requests[ticket])
                self._ahead.queue(name)
            case on.WithdrawEffect(_, name):
                self._ahead.withdraw(name)
            case on.RefuseEffect(ticket, error):
                if ticket in self._requests:
                    self._requests[ticket].fail(error)
                elif ticket in self._leases:
                    self._leases[ticket].refuse(copy_of(error))
            case on.GrantLeaseEffect(ticket):
                self._leases[ticket].grant(time.monotonic())
            case on.ExpireLeaseEffect(ticket, ended):
                self._leases[ticket].expire(ended=ended)
            case on.MeasureMemoryEffect(name):
                sizes = {one: size for one in self._lives if (engine := self._engine(one)) and (size := engine.memory)}
                self._post(on.MemoryMeasuredEvent(name, self._available(), sizes))
            case on.StartLoadEffect(name, domain):
                model = placed(self._models[name], domain)
                self._prompts.compile(model)
                self._lives[name] = EngineLife(model, self._make, self._post_of_engine, self._observer)
            case on.CloseEngineEffect(name, reason):
                for active in self._requests.values():
                    if reason is not None and active.engine is not None and active.model.id == name:
                        active.error = copy_of(reason)
                self._lives[name].close()
            case on.ReportLossEffect(name, error, restart):
                log.error("%s: %s", name, error, extra={"model": name})
                if restart is not None:
                    self._observer.restarted(RestartReport(name, restart))
            case on.LoadSettledEffect(name, error):
                self._loading.settle(name, None, error)
            case on.UnloadSettledEffect(name, closed):
                self._unloading.settle(name, closed)

    def _post_of_engine(self, event: DispatchEvent) -> None:
        if isinstance(event, on.EngineClosedEvent):
            del self._lives[event.model]
        self._post(event)

    def _engine(self, name: str) -> Engine | None:
        return self._lives[name].engine if name in self._lives else None

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = time.monotonic()
        if (due := deadline(self._state, now)) is not None:
            self._timer = asyncio.get_running_loop().call_later(due - now, self._post, on.TickEvent())

    def _ticket(self) -> int:
        self._tickets += 1
        return self._tickets

    def _current_needs(self, model: Model) -> ModelNeeds:
        """What the model takes; a card that changed counts from its next load on."""
        if model.id in self._lives:
            return self._state.models[model.id].needs
        self._models[model.id] = model
        return self._needs(model)
