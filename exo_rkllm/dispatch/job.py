"""One request between the run loop and whoever iterates its answer."""

from __future__ import annotations

import asyncio
import copy
from dataclasses import replace

from exo_rkllm.backends.base import Engine, Finish, GenerationRequest, Model, Progress, Timings, Usage
from exo_rkllm.backends.observer import AnswerReport, TokenGaps
from exo_rkllm.dispatch.state import ModelState
from exo_rkllm.errors import ExoRkllmError


def copy_of(error: ExoRkllmError) -> ExoRkllmError:
    """One reason may be raised to many, and an exception that is raised collects the frames of its raiser."""
    return copy.copy(error)


def log_line(answered: AnswerReport) -> str:
    """One line for the log."""
    usage, timings = answered.usage, answered.timings
    speed = timings.tokens_per_second(usage.completion)
    pace = f", {speed:.1f} a second" if speed else ""
    waited = (
        f", after {timings.queued + timings.load:.1f} s of waiting" if timings.queued + timings.load >= 0.05 else ""
    )
    cached = f" ({usage.cached} cached)" if usage.cached else ""
    about = "about " if usage.guessed else ""
    read = f"{about}{usage.prompt} tokens in{cached} and " if usage.prompt else ""
    return (
        f"{answered.model}: {answered.reason}, {read}{usage.completion} {'' if read else 'tokens '}out "
        f"in {answered.seconds:.1f} s{pace}{waited}."
    )


class ActiveRequest:
    """The run loop writes into it, its reader waits on it; no task stands between the two."""

    __slots__ = (
        "_news",
        "_told",
        "_waiter",
        "asked",
        "client",
        "engine",
        "error",
        "finish",
        "first",
        "gaps",
        "load",
        "model",
        "pieces",
        "request",
        "started",
        "ticket",
        "took",
    )

    def __init__(self, ticket: int, request: GenerationRequest, model: Model, client: str, now: float) -> None:
        self.ticket = ticket
        self.request = request
        self.model = model
        self.client = client
        self.asked = now
        self.started: float | None = None
        self.load = 0.0
        self.pieces = 0
        self.engine: Engine | None = None
        self.finish: Finish | None = None
        self.took: float | None = None
        self.first: float | None = None
        self.gaps = TokenGaps()
        self.error: ExoRkllmError | None = None
        self._news: Progress | None = None
        self._told: Progress | None = None
        self._waiter: asyncio.Future[None] | None = None

    async def news(self) -> Progress | Engine:
        """What it waits for now, whenever that changes; the engine that answers it once its turn has come."""
        while True:
            if self.error is not None:
                raise self.error
            if self.engine is not None:
                return self.engine
            if self._news is not None:
                news, self._news = self._news, None
                return news
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter

    def tell(self, progress: Progress) -> None:
        if progress != self._told:
            self._told = self._news = progress
            self._wake()

    def token(self, now: float) -> None:
        """One piece came from the engine: all that is done for each of them besides handing it on."""
        self.pieces += 1
        if self.first is None:
            self.first = now
        self.gaps.tick(now)

    def start(self, engine: Engine, model: ModelState, now: float) -> None:
        """Its turn has come; of the time it waited, what the model's load took is told apart."""
        self.engine = engine
        self.started = now
        self.load = min(model.load_seconds, max(0.0, model.since - self.asked))
        self._wake()

    def end(self, finish: Finish, now: float) -> Finish:
        """The engine's Finish with the time that was spent before the engine heard of the request."""
        started = now if self.started is None else self.started
        self.took = now - started
        queued = started - self.asked - self.load + finish.timings.queued
        load = self.load + finish.timings.load
        self.finish = replace(finish, timings=replace(finish.timings, queued=queued, load=load))
        return self.finish

    def account(self, now: float) -> AnswerReport:
        """What became of it, for whoever counts."""
        reason: str
        if self.finish is not None:
            reason, usage, timings = self.finish.reason, self.finish.usage, self.finish.timings
        else:
            reason = "abort" if self.error is None else self.error.code
            usage, timings = Usage(completion=self.pieces), Timings(load=self.load)
        first = None if self.first is None else self.first - self.asked
        return AnswerReport(self.model.id, reason, now - self.asked, usage, timings, first, self.gaps)

    def fail(self, error: ExoRkllmError) -> None:
        self.error = copy_of(error)
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
