"""The child: it loads one model, answers one run at a time, and never outlives the process that started it.

The main thread belongs to the vendor library: it loads, runs and gets the callbacks. A second thread listens to the
daemon, because only another thread can abort a run, and notices when the daemon is gone. Standard library only.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from queue import SimpleQueue
from typing import Any, NamedTuple

from exo_rkllm.errors import ExoRkllmError, NotSupported
from exo_rkllm.runner import wire
from exo_rkllm.runner.jobs import RunnerJob, inputs_of, spec_of
from exo_rkllm.runner.process import name_process, settle
from exo_rkllm.runner.wire import TOKEN_HEAD, TOKEN_ID, Frame, FrameKind
from exo_rkllm.runtime.blackbox import BlackBox
from exo_rkllm.runtime.ends import ends_beside
from exo_rkllm.runtime.session import Library, LoadParams, OnRows, Session

# An abort that comes before the library has begun is lost, so it is said again while the run lasts.
ABORT_AGAIN_MS = 50
# How long a run may take to end once the daemon is gone or has said goodbye.
GOODBYE_SECONDS = 2.0
# What CALL may name: the session's rare functions. Everything else is a frame of its own.
CALLS = frozenset({
    "clear_kv", "kv_size", "load_lora", "load_prompt_cache", "release_prompt_cache", "set_chat_template",
    "set_function_tools",
})  # fmt: skip


class ChildCall(NamedTuple):
    """`order` is what the frame says; of a run it is the job and what goes into the model, which the listener reads
    while the run before it computes."""

    frame: Frame
    order: Any
    fds: list[int]


class Listener(threading.Thread):
    """The second thread: reads frames, queues work for the main thread, and aborts the run that an ABORT names."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(name="listener", daemon=True)
        self.inbox: SimpleQueue[ChildCall] = SimpleQueue()
        self._sock = sock
        self._frames = wire.Reader(wire.TO_CHILD)
        self._fds: list[int] = []
        self._wake = os.eventfd(0, os.EFD_CLOEXEC)
        self._lock = threading.Lock()
        self._session: Session | None = None
        self._running = 0
        self._last_run = 0
        self._stops: set[int] = set()
        self.has_model = False  # set by the main thread after the load

    def begin(self, run: int, session: Session) -> bool:
        """Called by the main thread when a run starts; False where it was aborted while it waited."""
        with self._lock:
            if run in self._stops:
                self._stops.discard(run)
                self._last_run = run
                return False
            self._running, self._session = run, session
            return True

    def end(self, run: int) -> bool:
        """Called by the main thread when the run is over; True where it had been told to stop."""
        with self._lock:
            stopped = run in self._stops
            self._stops.discard(run)
            self._running, self._last_run, self._session = 0, run, None
            return stopped

    def stop(self, run: int) -> None:
        """Callable from any thread."""
        with self._lock:
            if run > self._last_run:
                self._stops.add(run)
        os.eventfd_write(self._wake, 1)

    def run(self) -> None:
        """A fault in here ends the process, as one of the main thread does: nobody would answer any more."""
        try:
            self._follow()
        except BaseException:  # noqa: BLE001 - whatever it is
            sys.excepthook(*sys.exc_info())
            os._exit(1)

    def _follow(self) -> None:
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        aborting = False
        while True:
            for fd, _ in poll.poll(ABORT_AGAIN_MS if aborting else None):
                if fd == self._wake:
                    os.eventfd_read(self._wake)
                elif not self._listen():
                    self._leave()
                    return
            aborting = self._abort()

    def _listen(self) -> bool:
        """Reads once; False when the daemon is gone, sent what is no frame, or said BYE."""
        try:
            data, received = wire.receive(self._sock)
            frames = self._frames.feed(data)
        except (OSError, wire.ProtocolError):
            return False
        self._fds += received
        for frame in frames:
            if frame.kind is FrameKind.BYE:
                return False
            if frame.kind is FrameKind.ABORT:
                self.stop(frame.run)
                continue
            order: Any = frame.json()
            fds: list[int] = []
            if frame.kind is FrameKind.RUN:
                fds, self._fds = self._fds[: order["fds"]], self._fds[order["fds"] :]
                job = RunnerJob.from_json(order)
                order = (job, inputs_of(job, fds))
            self.inbox.put(ChildCall(frame, order, fds))
        return bool(data)

    def _abort(self) -> bool:
        """Aborts the active run if it is to stop; True while it may have to be repeated.

        The lock keeps that run from ending and the next one from beginning in between.
        """
        with self._lock:
            if self._session is None or self._running not in self._stops:
                return False
            self._session.abort()
            return True

    def _leave(self) -> None:
        """Lets the main thread free the model, and ends the process where it hangs in the library; a load that nobody
        waits for any more is not waited for."""
        self.inbox.put(ChildCall(Frame(FrameKind.BYE, 0, b""), {}, []))
        with self._lock:
            self._stops.add(self._running)
        ends = time.monotonic() + (GOODBYE_SECONDS if self.has_model else 0.0)
        while time.monotonic() < ends:
            self._abort()
            time.sleep(ABORT_AGAIN_MS / 1000)
        os._exit(0)


class Child:
    def __init__(self, sock: socket.socket, box: BlackBox) -> None:
        self._sock = sock
        self._box = box
        self._listener = Listener(sock)
        self._session: Session | None = None
        self._has_prompt_cache = False  # of an earlier run, which is released before another one is loaded

    def serve(self) -> None:
        self._listener.start()
        try:
            while self._serve(self._listener.inbox.get()):
                pass
        except (BrokenPipeError, ConnectionResetError):
            pass  # the daemon is gone: nobody is left to answer
        finally:
            if self._session is not None:
                self._session.close()

    def _serve(self, task: ChildCall) -> bool:
        """False for BYE. Nothing of the task is kept while the next one is waited for."""
        handlers: dict[FrameKind, Callable[[ChildCall], None]] = {
            FrameKind.LOAD: self._load,
            FrameKind.RUN: self._run,
            FrameKind.CALL: self._call,
        }
        if task.frame.kind is FrameKind.BYE:
            return False
        try:
            handlers[task.frame.kind](task)
        except ExoRkllmError as error:
            self._send_log()
            self._send(wire.pack_failure(task.frame.run, error))
        finally:
            for fd in task.fds:
                os.close(fd)
        return True

    def _load(self, task: ChildCall) -> None:
        order = task.order
        name_process("rkllm-model")
        os.environ.update(order["environment"])
        if order["preload"] is not None:
            from exo_rkllm.runner.preload import Preload  # the rare model of a plugin pays for it, no other

            Preload.from_json(order["preload"]).run()
        library = Library.open(order["library"])
        params = LoadParams.from_json(order["params"])
        ends = (*params.end_tokens, *ends_beside(params.model_path, order["vocabulary"]))
        self._session = Session.open(library, replace(params, end_tokens=ends), self._box)
        self._listener.has_model = True
        self._send_log()
        self._send_json(FrameKind.READY, task.frame.run, self._session.facts.to_json())

    def _run(self, task: ChildCall) -> None:
        session, listener, run = self._loaded(), self._listener, task.frame.run
        job, inputs = task.order
        if not listener.begin(run, session):
            self._send_json(FrameKind.DONE, run, {"stopped": True})
            return
        self._send(wire.pack(FrameKind.STARTED, run))
        # The system call itself, since the socket's own methods touch more memory, which is cold at every token.
        pack, push, fd, token_kind, id_size = TOKEN_HEAD.pack, os.write, self._sock.fileno(), wire.TOKEN, TOKEN_ID.size

        def on_token(text: bytes, token: int, _waiting: bool) -> None:  # noqa: FBT001 - the session's signature
            frame = pack(len(text) + id_size, token_kind, run, token) + text
            taken = push(fd, frame)
            if taken < len(frame):
                self._send(frame[taken:])

        vectors = job.output != "text"
        clears = session.library.supports("clear_kv")  # 1.1.x keeps nothing between runs
        restored: dict[str, float] = {}
        try:
            if clears and (job.clear_first or vectors):
                session.clear_kv()
            if self._has_prompt_cache and (job.clear_first or job.load_prompt_cache):
                session.release_prompt_cache()
                self._has_prompt_cache = False
            if job.load_prompt_cache:
                restored = self._restore(session, job)
            stats = session.run(inputs, on_token, spec_of(job), self._on_rows(run, job.rows) if vectors else None)
            if clears and vectors:
                # Without it such runs slowed down from 0.3 to 26 s within hours (rkllama PR 139, RK3588).
                session.clear_kv()
        finally:
            stopped = listener.end(run)
        done = wire.pack_json(FrameKind.DONE, run, {**stats.to_json(), **restored, "stopped": stopped})
        self._send(self._log_frame() + done)

    def _restore(self, session: Session, job: RunnerJob) -> dict[str, float]:
        """How long loading the job's saved prompt took; empty where it failed, and the cache is as empty."""
        began = time.monotonic()
        try:
            session.clear_kv()
            session.load_prompt_cache(job.load_prompt_cache, after_abort=job.load_after_abort)
        except ExoRkllmError:  # the library's own line about it is in the log
            return {}
        self._has_prompt_cache = True
        return {"restored_ms": (time.monotonic() - began) * 1000}

    def _on_rows(self, run: int, most: int) -> OnRows:
        def on_rows(kind: str, rows: int, width: int, view: memoryview[float]) -> None:
            if most and rows > most:
                view, rows = view[(rows - most) * width :], most
            fd = wire.memory_file(f"{kind}-{run}", view)
            try:
                head = {"output": kind, "rows": rows, "width": width}
                wire.send(self._sock, wire.pack_json(FrameKind.ROWS, run, head), (fd,))
            finally:
                os.close(fd)

        return on_rows

    def _call(self, task: ChildCall) -> None:
        order = task.order
        if order["name"] not in CALLS:
            raise NotSupported(f"A model's process has no call {order['name']!r}.")
        result = getattr(self._loaded(), order["name"])(**order["arguments"])
        self._send_log()
        self._send_json(FrameKind.REPLY, task.frame.run, {"result": result})

    def _loaded(self) -> Session:
        if self._session is None:
            raise NotSupported("This process holds no model yet.")
        return self._session

    def _send_log(self) -> None:
        self._send(self._log_frame())

    def _log_frame(self) -> bytes:
        """What the library has said since; nothing where it has not."""
        lines = self._box.new_lines()
        return wire.pack_json(FrameKind.LOG, 0, {"lines": lines}) if lines else b""

    def _send_json(self, kind: FrameKind, run: int, value: dict[str, Any]) -> None:
        self._send(wire.pack_json(kind, run, value))

    def _send(self, data: bytes) -> None:
        self._sock.sendall(data)


def main(sock: int, box: int, parent: int, die_with_parent: int) -> None:
    """Called by the command line that `launch.start_child` builds, with descriptors that it inherited."""
    settle(parent, die_with_parent=bool(die_with_parent))
    name_process("rkllm-spare")
    Child(socket.socket(fileno=sock), BlackBox(box)).serve()
