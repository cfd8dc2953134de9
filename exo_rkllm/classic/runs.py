"""Running answers by the host's request id: the host asks for one token after another, and abandoned ones are ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from exo_rkllm.backends.base import Finish, GenerationEvent, GenerationRequest, Piece
from exo_rkllm.client.answers import AnswerSource
from exo_rkllm.errors import ExoRkllmError

log = logging.getLogger(__name__)


METRICS = {
    "exo_rkllm_classic_requests": ("Requests of classic exo by how they ended.", ("reason",)),
    "exo_rkllm_classic_tokens": ("Tokens given to classic exo.", ()),
}


class ClassicCounters:
    """For a host that serves /metrics; silent without prometheus_client. A second engine shares the first one's."""

    def __init__(self) -> None:
        self._counters: dict[str, Any] = {}
        try:
            from prometheus_client import REGISTRY, Counter
        except ImportError:
            return
        registered: dict[str, Any] = getattr(REGISTRY, "_names_to_collectors", {})
        for name, (text, labels) in METRICS.items():
            self._counters[name] = registered.get(f"{name}_total") or Counter(name, text, labels)

    def count_end(self, reason: str) -> None:
        if self._counters:
            self._counters["exo_rkllm_classic_requests"].labels(reason).inc()

    def count_token(self) -> None:
        if self._counters:
            self._counters["exo_rkllm_classic_tokens"].inc()


@dataclass(slots=True)
class ClassicRun:
    events: AsyncGenerator[GenerationEvent, None]
    lock: asyncio.Lock
    last_token: float  # on the loop's clock
    busy: bool = True


class Runs:
    """A host that leaves does not say so (classic-plugin 2.3): a timer ends an answer that the host has not asked for
    a token of for `idle` seconds. `on_end` hears how each one ended."""

    def __init__(self, source: AnswerSource, idle: float, on_end: Callable[[str], None] = lambda _reason: None) -> None:
        self._source = source
        self._idle = idle
        self._on_end = on_end
        self._runs: dict[str, ClassicRun] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._leaving: set[asyncio.Task[None]] = set()

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._runs

    def __len__(self) -> int:
        return len(self._runs)

    async def begin(self, request_id: str, request: GenerationRequest) -> int | None:
        """The first token, or None for an answer without any. An error is raised and leaves no run behind."""
        if request_id in self._runs:
            await self._end(request_id, "again")  # a host that asks anew wants the new answer
        loop = asyncio.get_running_loop()
        self._runs[request_id] = ClassicRun(self._source.answer(request), asyncio.Lock(), loop.time())
        self._watch()
        try:
            return await self._token(request_id, self._runs[request_id])
        except BaseException:
            await self._end(request_id, "refused")
            raise

    async def next(self, request_id: str) -> int | None:
        """The next token; None at the end, and for whatever went wrong, which is logged: the host would swallow it and
        its client wait for a quarter of an hour."""
        run = self._runs.get(request_id)
        if run is None:
            log.warning(
                "exo asks for a token of %s, which has ended or was given up after %g s.", request_id, self._idle
            )
            return None
        try:
            return await self._token(request_id, run)
        except ExoRkllmError as error:
            log.error("The answer to %s breaks off: %s", request_id, error)  # noqa: TRY400 - the sentence is all there is
        except Exception:
            log.exception("The answer to %s breaks off.", request_id)
        await self._end(request_id, "failed")
        return None

    async def _token(self, request_id: str, run: ClassicRun) -> int | None:
        async with run.lock:
            run.busy = True
            try:
                async for event in run.events:
                    if isinstance(event, Piece) and event.token >= 0:
                        return event.token
                    if isinstance(event, Finish):
                        break
            finally:
                run.busy, run.last_token = False, asyncio.get_running_loop().time()
        await self._end(request_id, "done")
        return None

    async def _end(self, request_id: str, reason: str) -> None:
        run = self._runs.pop(request_id, None)
        if run is not None:
            self._on_end(reason)
            await run.events.aclose()

    # ── abandoned answers ────────────────────────────────────────────────────────────────────────

    def _watch(self) -> None:
        """One timer, for the run that has been idle longest; moved only when it fires."""
        if self._timer is None and self._runs:
            self._timer = asyncio.get_running_loop().call_later(self._idle, self._look)

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = None
        idle = [one for one, run in self._runs.items() if not run.busy and loop.time() - run.last_token >= self._idle]
        for request_id in idle:
            log.info("exo has not asked for a token of %s for %g s; the answer is ended.", request_id, self._idle)
            self._leave(self._end(request_id, "forgotten"))
        deadlines = [run.last_token + self._idle for one, run in self._runs.items() if not run.busy and one not in idle]
        if self._runs:
            due = min(deadlines, default=loop.time() + self._idle)
            self._timer = loop.call_at(max(due, loop.time() + 0.01), self._look)

    def _leave(self, ending: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(ending)
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for request_id in list(self._runs):
            await self._end(request_id, "closed")
        if self._leaving:
            await asyncio.wait(self._leaving)
        await self._source.close()
