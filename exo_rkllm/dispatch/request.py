"""One request between the run loop and whoever iterates its answer."""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from exo_rkllm.backends.base import (
    Engine,
    Finish,
    GenerationRequest,
    Model,
    Piece,
    Progress,
    TakePiece,
    Timings,
    Usage,
)
from exo_rkllm.backends.observer import AnswerReport, TokenGaps
from exo_rkllm.dispatch.state import ModelState
from exo_rkllm.errors import ExoRkllmError, RunError

if TYPE_CHECKING:
    from exo_rkllm.chat.parser import ResponseParser
    from exo_rkllm.dispatch.prompts import EarlyPrompt


def copy_of(error: ExoRkllmError) -> ExoRkllmError:
    """One reason may be raised to many, and an exception that is raised collects the frames of its raiser."""
    return copy.copy(error)


class ActiveRequest:
    """The run loop writes into it, its reader waits on it; no task stands between the two."""

    __slots__ = (
        *("_latest_progress", "_new_progress", "_waiter", "client", "early", "engine", "error", "finish"),
        *("first_token_at", "gaps", "load_seconds", "model", "one_run", "place_free", "request", "run_seconds"),
        *("started_at", "submitted_at", "ticket", "tokens"),
    )

    def __init__(self, ticket: int, request: GenerationRequest, model: Model, client: str, now: float) -> None:
        self.ticket = ticket
        self.request = request
        self.model = model
        self.client = client
        self.submitted_at = now
        self.started_at: float | None = None
        self.first_token_at: float | None = None
        self.load_seconds = 0.0  # of the time it waited
        self.run_seconds: float | None = None
        self.tokens = 0
        self.gaps = TokenGaps()
        self.engine: Engine | None = None
        self.finish: Finish | None = None
        self.early: EarlyPrompt | None = None
        self.one_run = False  # it is no more than one run of the engine's, without repairs
        self.place_free = False  # the run loop has heard that its run is over
        self.error: ExoRkllmError | None = None
        self._new_progress: Progress | None = None
        self._latest_progress: Progress | None = None
        self._waiter: asyncio.Future[None] | None = None

    # ── its reader ───────────────────────────────────────────────────────────────────────────────

    async def turn(self) -> Progress | Engine:
        """What it waits for, whenever that changes; its engine once its turn has come. Raises why it never will."""
        while True:
            if self.error is not None:
                raise self.error
            if self.engine is not None:
                return self.engine
            if self._new_progress is not None:
                progress, self._new_progress = self._new_progress, None
                return progress
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter

    def count_token(self, now: float) -> None:
        """One piece came from the engine: all that is done for each of them besides handing it on."""
        self.tokens += 1
        if self.first_token_at is None:
            self.first_token_at = now
        self.gaps.tick(now)

    def shortcut(self, parser: ResponseParser, deliver: TakePiece) -> TakePiece:
        """What an engine may give a piece to that needs no more than to be handed on."""

        def take(piece: Piece) -> bool:
            if not parser.passes(piece) or not deliver(piece):
                return False
            self.count_token(time.monotonic())
            return True

        return take

    def complete(self, finish: Finish, now: float) -> None:
        """The engine's Finish with the time that was spent before the engine heard of the request."""
        started_at = now if self.started_at is None else self.started_at
        self.run_seconds = now - started_at
        queued = started_at - self.submitted_at - self.load_seconds + finish.timings.queued
        load = self.load_seconds + finish.timings.load
        self.finish = replace(finish, timings=replace(finish.timings, queued=queued, load=load))

    @property
    def log_fields(self) -> Mapping[str, str]:
        return {"request": self.request.id, "model": self.model.id, "client": self.client}

    def report(self, now: float) -> AnswerReport:
        """What became of it, for whoever counts."""
        reason: str
        if self.finish is not None:
            reason, usage, timings = self.finish.reason, self.finish.usage, self.finish.timings
        else:
            reason = "abort" if self.error is None else self.error.code
            usage, timings = Usage(completion=self.tokens), Timings(load=self.load_seconds)
        first_token = None if self.first_token_at is None else self.first_token_at - self.submitted_at
        return AnswerReport(self.model.id, reason, now - self.submitted_at, usage, timings, first_token, self.gaps)

    # ── the run loop ─────────────────────────────────────────────────────────────────────────────

    def progress(self, progress: Progress) -> None:
        """Tell what it waits for; the same is not told twice."""
        if progress != self._latest_progress:
            self._latest_progress = self._new_progress = progress
            self._wake()

    def start(self, engine: Engine, model: ModelState, now: float) -> None:
        """Its turn has come; of the time it waited, what the model's load took is told apart."""
        self.engine = engine
        self.started_at = now
        self.load_seconds = min(model.load_seconds, max(0.0, model.since - self.submitted_at))
        self._wake()

    def fail(self, error: ExoRkllmError) -> None:
        self.error = copy_of(error)
        self._wake()

    async def stop(self) -> None:
        """For somebody other than its reader, who is told."""
        if self.engine is None:
            self.fail(RunError("The request was ended from outside before its turn came.", "Ask again."))
        else:
            await self.engine.abort(self.request.id)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def log_line(report: AnswerReport) -> str:
    """What became of a request, in one line for the log."""
    usage, timings = report.usage, report.timings
    speed = timings.tokens_per_second(usage.completion)
    pace = f", {speed:.1f} a second" if speed else ""
    waited = timings.queued + timings.load
    after = f", after {waited:.1f} s of waiting" if waited >= 0.05 else ""
    about = "about " if usage.guessed else ""
    cached = f" ({usage.cached} cached)" if usage.cached else ""
    prompt = f"{about}{usage.prompt} tokens in{cached} and " if usage.prompt else ""
    unit = "" if prompt else "tokens "
    return (
        f"{report.model}: {report.reason}, {prompt}{usage.completion} {unit}out in {report.seconds:.1f} s{pace}{after}."
    )
