"""The dispatcher: carries out what `decide` wants, and hands each answer from its engine to whoever asked.

One request, from the top: `generate` posts Submit; the run loop (`_post`) lets `decide` change the state and carries
out the effects; StartRun wakes the request's Job; from there on `generate` reads the engine's iterator itself, so that
a token passes no queue, no task and no decision. Whatever ends it posts Gone, and the loop starts the next one.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing, suppress
from typing import Any

from exo_rkllm.backends.base import Engine, Finish, GenerationEvent, GenerationRequest, Model, Piece, Progress
from exo_rkllm.backends.observer import LoadReport, NullObserver, Observer, RestartReport, restart_reason
from exo_rkllm.chat.parser import ResponseParser
from exo_rkllm.chat.prompt import render
from exo_rkllm.dispatch import state as on
from exo_rkllm.dispatch.decide import deadline, decide, idle_deadline
from exo_rkllm.dispatch.job import ActiveRequest, copy_of, log_line
from exo_rkllm.dispatch.placed import PlacedModel
from exo_rkllm.dispatch.state import (
    DispatchEffect,
    DispatchEvent,
    DispatchLimits,
    DispatchState,
    ModelNeeds,
    ModelState,
)
from exo_rkllm.dispatch.status import DispatchStatus, ModelStatus, RequestStatus
from exo_rkllm.errors import ExoRkllmError, LoadError, RunError, RunnerLost

log = logging.getLogger(__name__)

# Engines close within seconds by their contract; whoever does not is somebody else's.
CLOSE = 20.0


class Dispatcher:
    """Lives on one event loop. Everything it does not decide itself is given to it."""

    def __init__(
        self,
        *,
        find: Callable[[str], Model],
        engine: Callable[[Model], Engine],
        needs: Callable[[Model], ModelNeeds],
        available: Callable[[], int],
        observer: Observer | None = None,
        limits: DispatchLimits = DispatchLimits(),  # noqa: B008 - a frozen value
    ) -> None:
        self._find = find
        self._make = engine
        self._needs = needs
        self._available = available
        self._observer = NullObserver() if observer is None else observer
        self._state = DispatchState(limits)
        self._tickets = 0
        self._jobs: dict[int, ActiveRequest] = {}
        self._models: dict[str, Model] = {}
        self._engines: dict[str, Engine] = {}
        self._lives: dict[str, asyncio.Task[None]] = {}
        self._loads: dict[str, list[asyncio.Future[None]]] = {}
        self._happenings: deque[DispatchEvent] = deque()
        self._deciding = False
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._watchers: set[asyncio.Event] = set()

    # ── one request ──────────────────────────────────────────────────────────────────────────────

    async def generate(
        self, request: GenerationRequest, *, client: str = "", keep_alive: float | None = None
    ) -> AsyncGenerator[GenerationEvent, None]:
        """Progress while it waits, the pieces, one Finish; a refusal is raised before any piece is yielded.

        `client` is whom the queue is fair to. `keep_alive` is how many seconds the model stays afterwards (0: not at
        all, negative: for ever). Closing the iterator ends this request only, wherever it is. Read it without waiting
        for a slow client of your own: the next request starts when this one was read to its end.
        """
        model = self._find(request.model)
        job = ActiveRequest(self._ticket(), request, model, client, time.monotonic())
        self._jobs[job.ticket] = job
        try:
            self._post(on.SubmitEvent(job.ticket, model.id, self._known(model), client, keep_alive))
            while isinstance(news := await job.news(), Progress):
                yield news
            engine = news
            prompt = render(request, model, engine.capabilities)
            parser = ResponseParser(prompt)
            stream = engine.generate(prompt.request)
            try:
                async for event in stream:
                    if type(event) is Piece:
                        if parser.stopped:
                            continue  # what the engine still says until it heard of it
                        job.token(time.monotonic())
                        for piece in parser.feed(event):
                            yield piece
                        if parser.stopped:
                            await engine.abort(request.id)
                    elif type(event) is Finish:
                        for last in parser.end(job.end(event, time.monotonic())):
                            job.finish = last if type(last) is Finish else job.finish
                            yield last
                    else:
                        yield event
            finally:
                await stream.aclose()
            if job.finish is None:
                raise RunError(f"The engine of {model.id} ended an answer without saying so.", "exo-rkllm logs")
        except ExoRkllmError as error:
            job.error = job.error or copy_of(error)
            raise job.error from None
        finally:
            self._leave(job)

    def _leave(self, job: ActiveRequest) -> None:
        del self._jobs[job.ticket]
        answered = job.account(time.monotonic())
        self._observer.answered(answered)
        log.info(
            "%s", log_line(answered), extra={"request": job.request.id, "model": job.model.id, "client": job.client}
        )
        if isinstance(job.error, RunnerLost) and self._engines.get(job.model.id) is job.engine is not None:
            # Before Gone frees the place: the next request must not start on an engine that is dead.
            self._lost(job.model.id, job.error)
        if job.engine is not None and job.finish is None and job.error is None:
            self._spawn(self._gone_once_settled(job, job.engine))
        else:
            self._post(on.RequestGoneEvent(job.ticket, job.model.id, job.took))

    async def _gone_once_settled(self, job: ActiveRequest, engine: Engine) -> None:
        """Its reader has left, and the NPU is another's only when the run has really ended (reference 2.8)."""
        try:
            await engine.settled(job.request.id)
        finally:
            self._post(on.RequestGoneEvent(job.ticket, job.model.id))

    # ── what else may be asked ───────────────────────────────────────────────────────────────────

    async def load(self, name: str, keep_alive: float | None = None, *, pin: bool = False) -> None:
        """Returns when the model is ready, or raises why it cannot be; a pinned one is never unloaded by itself."""
        model = self._find(name)
        settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._loads.setdefault(model.id, []).append(settled)
        self._post(on.LoadEvent(self._ticket(), model.id, self._known(model), keep_alive, pin))
        await settled

    async def unload(self, name: str) -> bool:
        """Lets what runs on it end, then frees it; False where it was not loaded."""
        name = name if name in self._models else self._find(name).id
        life = self._lives.get(name)
        self._post(on.UnloadEvent(name))
        if life is not None:
            await asyncio.wait([life])
        return life is not None

    def npu_unavailable(self, reason: ExoRkllmError) -> None:
        """Nothing can use the NPU any more: what runs fails with the reason, what waits goes on waiting."""
        self._post(on.NpuUnavailableEvent(reason))

    def npu_available(self) -> None:
        self._post(on.NpuUnavailableEvent(None))

    def reconfigure(self, limits: DispatchLimits) -> None:
        self._post(on.LimitsChangedEvent(limits))

    def beat(self) -> None:
        """One decision that changes nothing, for a watchdog that wants to see one taken."""
        self._post(on.TickEvent())

    async def drain(self, timeout: float) -> None:
        """No new requests; what runs may end within so many seconds; then every engine is closed."""
        self._post(on.DrainEvent())
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._quiet(), timeout)
        self._post(on.StopEvent())
        if self._lives:
            await asyncio.wait(self._lives.values())
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _quiet(self) -> None:
        async with aclosing(self.subscribe()) as changes:
            async for status in changes:
                if not status.running:
                    return

    # ── what is to be seen ───────────────────────────────────────────────────────────────────────

    async def subscribe(self, changed: asyncio.Event | None = None) -> AsyncGenerator[DispatchStatus, None]:
        """The status now, and again after every change; changes that come faster than they are read are one.

        A caller that also follows something else brings the event, and sets it for that.
        """
        changed = asyncio.Event() if changed is None else changed
        self._watchers.add(changed)
        try:
            while True:
                changed.clear()
                yield self.status()
                await changed.wait()
        finally:
            self._watchers.discard(changed)

    def status(self) -> DispatchStatus:
        reason = self._state.unavailable_reason
        return DispatchStatus(
            tuple(self._model_status(model) for _, model in sorted(self._state.models.items())),
            "" if reason is None else reason.sentence,
            "" if reason is None else reason.hint,
            self._state.draining,
        )

    def _model_status(self, model: ModelState) -> ModelStatus:
        now, epoch = time.monotonic(), time.time() - time.monotonic()
        engine = self._engines.get(model.name)
        measured = None if engine is None else engine.memory
        running = [job for job in self._jobs.values() if job.ticket in model.running]
        waiting = [self._jobs[entry.ticket] for entry in model.line.entries]
        unload_at = idle_deadline(self._state, model)
        return ModelStatus(
            name=model.name,
            engine=self._models[model.name].engine,
            state=model.phase,
            since=epoch + model.since,
            running=tuple(
                RequestStatus(job.request.id, job.client, epoch + (job.started or now), tokens=job.pieces)
                for job in running
            ),
            waiting=tuple(
                RequestStatus(job.request.id, job.client, epoch + job.asked, ahead=ahead)
                for ahead, job in enumerate(waiting, len(running))
            ),
            slots=model.slots,
            context=self._models[model.name].context if engine is None else engine.capabilities.context,
            images=None if engine is None or model.phase != "ready" else engine.capabilities.images,
            pinned=self._state.pinned(model),
            memory=model.takes if measured is None else measured,
            domain=model.domain,
            unload_at=epoch + unload_at if math.isfinite(unload_at) else None,
            retry_at=epoch + model.retry_at if model.retry_at > now else None,
            error="" if model.error is None else model.error.sentence,
            hint="" if model.error is None else model.error.hint,
        )

    # ── the run loop ─────────────────────────────────────────────────────────────────────────────

    def _post(self, happening: DispatchEvent) -> None:
        """The only place where the state changes; what an effect brings about waits for its turn."""
        self._happenings.append(happening)
        if self._deciding:
            return
        self._deciding = True
        before = self._state
        try:
            while self._happenings:
                self._state, effects = decide(self._state, self._happenings.popleft(), time.monotonic())
                for effect in effects:
                    self._carry_out(effect)
        finally:
            self._deciding = False
        self._set_timer()
        for name, model in self._state.models.items():
            if model is not before.models.get(name):
                self._tell_those_who_wait(model)
        for watcher in self._watchers:
            watcher.set()

    def _carry_out(self, effect: DispatchEffect) -> None:
        match effect:
            case on.StartRunEffect(ticket, name):
                self._jobs[ticket].start(self._engines[name], self._state.models[name], time.monotonic())
            case on.RefuseEffect(ticket, error):
                if ticket in self._jobs:
                    self._jobs[ticket].fail(error)
            case on.MeasureMemoryEffect(name):
                sizes = {loaded: size for loaded, engine in self._engines.items() if (size := engine.memory)}
                self._post(on.MemoryMeasuredEvent(name, self._available(), sizes))
            case on.StartLoadEffect(name, domain):
                self._lives[name] = asyncio.get_running_loop().create_task(self._live(name, domain))
            case on.CloseEngineEffect(name, reason):
                for job in self._jobs.values():
                    if reason is not None and job.engine is not None and job.model.id == name:
                        job.error = copy_of(reason)
                self._lives[name].cancel()
            case on.LoadSettledEffect(name, error):
                for settled in self._loads.pop(name, ()):
                    if not settled.done():
                        settled.set_result(None) if error is None else settled.set_exception(copy_of(error))

    async def _live(self, name: str, domain: int | None) -> None:
        """One engine from its load to its end, whoever ends it."""
        model = self._models[name]
        engine: Engine | None = None
        began = time.monotonic()
        try:
            engine = self._make(PlacedModel(model, domain) if domain else model)
            self._engines[name] = engine
            await engine.initialize()
            took = time.monotonic() - began
            self._observer.loaded(LoadReport(name, took))
            log.info("%s is loaded (%.1f s).", name, took, extra={"model": name})
            self._post(on.EngineReadyEvent(name, engine.capabilities.parallel, engine.memory or 0))
            self._lost(name, await engine.lost())
        except asyncio.CancelledError:
            pass  # Close wants it so; the engine is closed all the same
        except ExoRkllmError as error:
            self._observer.loaded(LoadReport(name, time.monotonic() - began, error.code))
            self._lost(name, copy_of(error))
        except Exception as error:  # an engine of somebody else's must not take the daemon along
            log.exception("The engine of %s failed.", name)
            self._observer.loaded(LoadReport(name, time.monotonic() - began, LoadError.code))
            self._lost(name, LoadError(f"The engine of {name} failed: {error!r}.", "exo-rkllm logs"))
        finally:
            if engine is not None:
                await self._close(name, engine)
            self._engines.pop(name, None)
            del self._lives[name]
            log.info("%s is unloaded.", name, extra={"model": name})
            self._post(on.EngineClosedEvent(name))

    async def _close(self, name: str, engine: Engine) -> None:
        """An engine that does not let go is left behind: the next model must not wait for it for ever."""
        try:
            await asyncio.wait_for(engine.close(), CLOSE)
        except Exception:
            log.exception("The engine of %s did not close.", name)

    def _lost(self, name: str, error: ExoRkllmError) -> None:
        """Told by the engine, and by each request that found it dead; the first counts."""
        phase = self._state.models[name].phase
        if phase in ("loading", "ready"):
            log.error("%s: %s", name, error, extra={"model": name})
        if phase == "ready" and (reason := restart_reason(error)) is not None:
            self._observer.restarted(RestartReport(name, reason))
        self._post(on.EngineLostEvent(name, error))

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = time.monotonic()
        if (due := deadline(self._state, now)) is not None:
            self._timer = asyncio.get_running_loop().call_later(due - now, self._post, on.TickEvent())

    def _tell_those_who_wait(self, model: ModelState) -> None:
        for ahead, entry in enumerate(model.line.entries, len(model.running)):
            progress = Progress("loading") if model.phase == "loading" else Progress("queued", ahead)
            self._jobs[entry.ticket].tell(progress)

    def _ticket(self) -> int:
        self._tickets += 1
        return self._tickets

    def _known(self, model: Model) -> ModelNeeds:
        """What the model takes; a card that changed counts from its next load on."""
        if model.id in self._lives:
            return self._state.models[model.id].needs
        self._models[model.id] = model
        return self._needs(model)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
