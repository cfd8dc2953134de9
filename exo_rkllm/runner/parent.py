"""The daemon's end of a child process: it sends runs, receives their events, and watches for silence and death.

Nothing here waits for the vendor library: a crash, a hang or garbage ends in one `RunnerLost` for everybody who waits.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

from exo_rkllm.errors import ExoRkllmError, RunnerLost, from_code, unloaded
from exo_rkllm.runner import wire
from exo_rkllm.runner.jobs import ChildJob
from exo_rkllm.runner.launch import (
    LANGUAGE_MODEL,
    LOG_HINT,
    ChildProcess,
    ChildProgram,
    death_of,
    resident_bytes,
    start_child,
)
from exo_rkllm.runner.limits import RunnerLimits
from exo_rkllm.runner.outbox import Outbox
from exo_rkllm.runner.preload import Preload
from exo_rkllm.runner.silence import Silence
from exo_rkllm.runner.spare import SpareChild
from exo_rkllm.runner.stream import ArrayRows, MakeToken, RunDone, RunStarted, RunStream
from exo_rkllm.runner.wire import TOKEN_ID, Frame, FrameKind
from exo_rkllm.runtime.values import LoadParams

LineSink: TypeAlias = Callable[[Sequence[str]], None]


class Runner:
    """One child with one loaded model, made by `start`. Once `lost` has returned, other calls raise its reason."""

    def __init__(self, child: ChildProcess, name: str, limits: RunnerLimits, report: LineSink) -> None:
        self._process, self._sock, self._box = child.process, child.sock, child.box
        self._name = name
        self._limits = limits
        self._report = report
        self._loop = asyncio.get_running_loop()
        self._lost: asyncio.Future[ExoRkllmError] = self._loop.create_future()
        self._exited = asyncio.Event()
        self._frames = wire.Reader(wire.TO_PARENT)
        self._fds: deque[int] = deque()
        self._runs: dict[int, RunStream] = {}
        # Runs that may send arrays: only then a read looks for descriptors.
        self._array_runs: set[int] = set()
        # Runs that nobody listens to any more and that the child has not ended yet.
        self._left_runs: dict[int, asyncio.Event] = {}
        self._calls: dict[int, asyncio.Future[Mapping[str, Any]]] = {}
        self._number = 0
        self._latest_run = 0  # that has begun
        self._silence = Silence(self._loop, limits.abort, self._on_hung)
        self._closing = False
        self._outbox = Outbox(self._loop, self._sock)
        self._pidfd = os.pidfd_open(self._process.pid)
        self._loop.add_reader(self._sock, self._on_readable)
        self._loop.add_reader(self._pidfd, self._on_exit)

    @classmethod
    async def start(
        cls,
        name: str,
        library: Path,
        params: LoadParams,
        *,
        report: LineSink,
        limits: RunnerLimits = RunnerLimits(),
        preload: Preload = Preload(),
        environment: Mapping[str, str] = MappingProxyType({}),
        vocabulary: int = 0,
        spare: SpareChild | None = None,
    ) -> tuple[Runner, Mapping[str, Any]]:
        """A child with its model loaded, and the facts of its session: `spare` where it has a process, else a new one.

        `environment` is set in the child before it opens a library, and `vocabulary` is as in `ends_beside`.

        Raises what the child reports, or why it died; no process is left then.
        """
        order = {
            "library": str(library),
            "params": params.to_json(),
            "environment": dict(environment),
            "preload": preload.order(),
            "vocabulary": vocabulary,
        }
        if spare is None:
            return await cls.start_program(LANGUAGE_MODEL, name, order, report=report, limits=limits)
        try:
            child = spare.take() or start_child(LANGUAGE_MODEL, name)
            return await cls._loaded(child, name, order, report, limits)
        finally:
            spare.refill()  # after the load, which needs the processor itself

    @classmethod
    async def start_program(
        cls,
        program: ChildProgram,
        name: str,
        order: dict[str, Any],
        *,
        report: LineSink,
        limits: RunnerLimits,
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> tuple[Runner, Mapping[str, Any]]:
        """A child of any kind, and what it answers to its LOAD. `environment` goes over the daemon's own."""
        return await cls._loaded(start_child(program, name, environment), name, order, report, limits)

    @classmethod
    async def _loaded(
        cls, child: ChildProcess, name: str, order: dict[str, Any], report: LineSink, limits: RunnerLimits
    ) -> tuple[Runner, Mapping[str, Any]]:
        runner = cls(child, name, limits, report)
        try:
            facts = await runner._ask(FrameKind.LOAD, order)
        except BaseException:
            await runner.close()
            raise
        return runner, facts

    # ── what the engine asks for ─────────────────────────────────────────────────────────────────

    def number(self) -> int:
        """The number of the next run, by which it can be aborted."""
        self._number += 1
        return self._number

    def run(
        self, number: int, job: ChildJob, make: MakeToken, arrays: Sequence[memoryview] = ()
    ) -> AsyncGenerator[Sequence[Any], None]:
        """`order`, and what `answer` yields."""
        return self.answer(number, self.order(number, job, make, arrays))

    def order(self, number: int, job: ChildJob, make: MakeToken, arrays: Sequence[memoryview] = ()) -> RunStream:
        """Sends a run, which begins as soon as those before it have ended. `answer` reads it, or `leave` ends it."""
        self._check()
        run = RunStream(make, self._limits.prefill + job.length * self._limits.prefill_token)
        self._runs[number] = run
        if job.output != "text":
            self._array_runs.add(number)
        payload, files = job.packed(arrays)
        fds = tuple(wire.memory_file(f"input-{number}", view) for view in files)
        self._outbox.post(wire.pack(FrameKind.RUN, number, payload), fds)
        return run

    async def answer(self, number: int, run: RunStream) -> AsyncGenerator[Sequence[Any], None]:
        """Batches of what is ready together: `make(text, token)`, RunStarted, ArrayRows, and RunDone as the very last.

        Raises the child's error, or the reason why the child is lost. Leaving early aborts the run.
        """
        try:
            while True:
                while run.events:
                    batch, run.events = run.events, []
                    yield batch
                    if isinstance(batch[-1], RunDone):
                        return
                if run.error is not None:
                    raise run.error
                await run.wait()
        finally:
            self.leave(number)

    def leave(self, number: int) -> None:
        """Ends a run that nobody reads any more, whether it has begun or not; `settled` waits for its end."""
        if (run := self._runs.pop(number, None)) is not None and not self._lost.done():
            self._left_runs[number] = asyncio.Event()
            self._abort(number, started=run.started)

    def abort(self, number: int) -> None:
        """Ends a run that is being iterated: its RunDone follows. An unknown number is ignored."""
        if not self._lost.done() and (run := self._runs.get(number)) is not None:
            self._abort(number, started=run.started)

    def _abort(self, number: int, *, started: bool) -> None:
        self._outbox.post(wire.pack(FrameKind.ABORT, number))
        if started:
            self._silence.expect_end()

    async def settled(self) -> None:
        """Returns when the runs that were left early are over in the child, too: the hardware is free."""
        for over in list(self._left_runs.values()):
            await over.wait()

    @property
    def is_settled(self) -> bool:
        return not self._left_runs

    def has_begun(self, number: int) -> bool:
        """Whether the child has told so of this run."""
        return number <= self._latest_run

    async def call(self, function: str, /, **arguments: Any) -> Any:
        """The result of one of the session's functions in `child.CALLS`, called after the runs that wait already."""
        return (await self._ask(FrameKind.CALL, {"name": function, "arguments": arguments}))["result"]

    async def lost(self) -> ExoRkllmError:
        return await asyncio.shield(self._lost)

    async def close(self) -> None:
        """Asks the child to free its model and end; kills it after `RunnerLimits.close`. May be called twice."""
        self._closing = True
        self._outbox.post(wire.pack(FrameKind.BYE, 0))
        self._fail(unloaded(self._name))
        try:
            await asyncio.wait_for(self._exited.wait(), self._limits.close)
        except (asyncio.TimeoutError, asyncio.CancelledError):
            self._kill()
            await self._exited.wait()

    @property
    def gone(self) -> bool:
        """Whether it can do nothing any more."""
        return self._lost.done()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def memory(self) -> int | None:
        """Resident bytes of the child, which unloading frees; None where they cannot be read."""
        return resident_bytes(self.pid)

    # ── the process ──────────────────────────────────────────────────────────────────────────────

    def _kill(self) -> None:
        if self._process.returncode is None:
            self._process.kill()

    def _on_exit(self) -> None:
        """The child is dead: read what it still sent, then fail every waiting caller with the reason."""
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        status = self._process.wait()
        with suppress(wire.ProtocolError, BlockingIOError):
            while self._receive():
                pass
        self._loop.remove_reader(self._sock)
        self._outbox.close()
        self._sock.close()
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()
        if lines := self._box.new_lines():
            self._report(lines)
        self._box.close()
        activity = "answering" if self._runs else "loading" if self._calls else "idle"
        self._fail(death_of(self._name, status, activity, lines))
        self._exited.set()

    def _fail(self, error: ExoRkllmError) -> None:
        """Fails every waiting caller. The first reason stands for all later calls."""
        if not self._lost.done():
            self._lost.set_result(error)
        self._silence.close()
        for run in self._runs.values():
            run.end(self._lost.result())
        for number in list(self._left_runs):
            self._release(number)
        for call in self._calls.values():
            if not call.done():
                call.set_exception(self._lost.result())

    def _release(self, number: int) -> None:
        if (over := self._left_runs.pop(number, None)) is not None:
            over.set()

    def _check(self) -> None:
        if self._lost.done():
            raise self._lost.result()

    def _on_hung(self, what: str, seconds: float) -> None:
        self._fail(RunnerLost(f"The process of {self._name} {what} for {seconds:g} s and was ended.", LOG_HINT, "hang"))
        self._kill()

    # ── the stream ───────────────────────────────────────────────────────────────────────────────

    async def _ask(self, kind: FrameKind, value: dict[str, Any]) -> Mapping[str, Any]:
        self._check()
        number = self.number()
        answer: asyncio.Future[Mapping[str, Any]] = self._loop.create_future()
        self._calls[number] = answer
        if self._silence.patience is None:
            self._silence.expect(self._limits.load)
        self._outbox.post(wire.pack_json(kind, number, value))
        try:
            return await answer
        finally:
            del self._calls[number]

    def _on_readable(self) -> None:
        try:
            if not self._receive():
                self._kill()  # it closed the stream without dying: nothing it does now can reach us
                self._loop.remove_reader(self._sock)
        except BlockingIOError:
            pass
        except wire.ProtocolError as error:
            self._loop.remove_reader(self._sock)
            self._fail(RunnerLost(f"The process of {self._name} sent {error}.", LOG_HINT, "protocol"))
            self._kill()

    def _receive(self) -> bool:
        """Reads once and dispatches the frames; False at the end of the stream."""
        try:
            if self._array_runs:
                data, fds = wire.receive(self._sock)
                self._fds += fds
            else:
                data = self._sock.recv(wire.CHUNK)
        except ConnectionError:
            return False
        self._silence.heard = time.monotonic()
        if (sole := self._frames.sole_token(data)) is not None:
            self._on_token(*sole, alone=True)
            return True
        for frame in self._frames.feed(data):
            if frame.kind is FrameKind.TOKEN:
                (token,) = TOKEN_ID.unpack_from(frame.payload)
                self._on_token(frame.run, token, frame.payload[TOKEN_ID.size :])
            else:
                self._on_frame(frame)
        return bool(data)

    def _on_token(self, number: int, token: int, data: bytes, *, alone: bool = False) -> None:
        if (run := self._runs.get(number)) is not None:
            run.token(token, data, alone=alone)
            if self._silence.patience != self._limits.token:
                self._silence.expect(self._limits.token)

    def _on_frame(self, frame: Frame) -> None:
        if frame.kind is FrameKind.LOG:
            self._report(frame.json()["lines"])
        elif frame.run in self._calls:
            self._on_answer(self._calls[frame.run], frame)
        else:
            self._on_run_frame(self._runs.get(frame.run), frame)

    def _on_answer(self, call: asyncio.Future[Mapping[str, Any]], frame: Frame) -> None:
        self._silence.expect(None)
        if call.done():
            return
        if frame.kind is FrameKind.FAILED:
            call.set_exception(from_code(**frame.json()))
        else:
            call.set_result(frame.json())

    def _on_run_frame(self, run: RunStream | None, frame: Frame) -> None:
        """`run` is None where its reader has left; the child's state is followed all the same."""
        event: Any
        if frame.kind is FrameKind.STARTED:
            self._latest_run = frame.run
            self._silence.expect(self._limits.prefill if run is None else run.prefill)
            event = RunStarted()
        elif frame.kind is FrameKind.ROWS:
            if not self._fds:
                raise wire.ProtocolError("rows without their memory file")
            event = ArrayRows.mapped(self._fds.popleft(), **frame.json())
        else:
            self._silence.ended()
            self._runs.pop(frame.run, None)
            self._array_runs.discard(frame.run)
            self._release(frame.run)
            self._silence.expect(self._limits.token if self._runs or self._left_runs else None)
            value = frame.json()
            event = from_code(**value) if frame.kind is FrameKind.FAILED else RunDone(value, bool(value.get("stopped")))
        if run is None:
            return
        run.started = True
        if isinstance(event, RunStarted | ArrayRows):
            run.events.append(event)
            run.wake()
        else:
            run.end(event)
