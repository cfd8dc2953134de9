"""What every child does: prepare its process, and, where one thread is enough, answer one frame after another."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import resource
import signal
import socket
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Protocol

from exo_rkllm.errors import ExoRkllmError
from exo_rkllm.runner import wire
from exo_rkllm.runner.wire import Frame, FrameKind
from exo_rkllm.runtime.blackbox import BlackBox

PR_SET_PDEATHSIG, PR_SET_NAME = 1, 15
# The vendor's own demo raises it to this: older libraries hold a descriptor a buffer (reference 4.4).
OPEN_FILES = 102400
# The kernel's out-of-memory killer takes the child that holds the weights, not the daemon that can say why.
OOM_SCORE = "500"


class SendRows(Protocol):
    def __call__(self, head: Mapping[str, Any], fd: int, /) -> None: ...


class ChildWork(Protocol):
    """What a child of one thread does with its two kinds of frames. Raises ExoRkllmError for what goes wrong."""

    def load(self, order: Mapping[str, Any]) -> dict[str, Any]:
        """What READY tells."""
        ...

    def run(self, job: Mapping[str, Any], fds: list[int], send_rows: SendRows) -> None: ...


def serve(sock: socket.socket, box: BlackBox, work: ChildWork, idle: float | None = None) -> None:
    """Until the daemon is gone or says BYE, or nothing came for `idle` seconds. A run can be killed, not aborted."""
    frames, waiting, fds = wire.Reader(wire.TO_CHILD), deque[Frame](), deque[int]()
    sock.settimeout(idle)
    while True:
        while not waiting:
            try:
                data, received = wire.receive(sock)
                waiting.extend(frames.feed(data))
            except (OSError, wire.ProtocolError):
                return
            fds.extend(received)
            if not data:
                return
        frame = waiting.popleft()
        if frame.kind is FrameKind.BYE:
            return
        if frame.kind in {FrameKind.LOAD, FrameKind.RUN}:
            order = frame.json()
            taken = [fds.popleft() for _ in range(order.get("fds", 0))]
            try:
                answer(sock, box, work, frame.kind, frame.run, order, taken)
            except (BrokenPipeError, ConnectionResetError):
                return
            finally:
                for fd in taken:
                    os.close(fd)


def answer(
    sock: socket.socket,
    box: BlackBox,
    work: ChildWork,
    kind: FrameKind,
    run: int,
    order: Mapping[str, Any],
    fds: list[int],
) -> None:
    def send_rows(head: Mapping[str, Any], fd: int, /) -> None:
        wire.send(sock, wire.pack_json(FrameKind.ROWS, run, dict(head)), (fd,))

    try:
        if kind is FrameKind.LOAD:
            last = wire.pack_json(FrameKind.READY, run, work.load(order))
        else:
            sock.sendall(wire.pack(FrameKind.STARTED, run))
            work.run(order, fds, send_rows)
            last = wire.pack_json(FrameKind.DONE, run, {})
    except ExoRkllmError as error:
        last = wire.pack_failure(run, error)
    if lines := box.new_lines():
        sock.sendall(wire.pack_json(FrameKind.LOG, 0, {"lines": lines}))
    sock.sendall(last)


def settle(parent: int, *, die_with_parent: bool) -> None:
    """Prepares this process: it dies with its parent if asked to, ignores the terminal's interrupt, leaves no core,
    has descriptors enough for the library, and is the first that the out-of-memory killer takes."""
    # A group of its own, but not a session: the kernel schedules sessions against each other (autogroup), and on a busy
    # machine a token then waited 3 to 8 ms for the daemon instead of 0.3 (bench/tokens.py).
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.enable()
    if die_with_parent:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:  # noqa: PTH123 - pathlib takes 1.2 MB
        score.write(OOM_SCORE)


def name_process(name: str) -> None:
    """What ps and top show; at most 15 letters. Called by the main thread, whose name it is."""
    ctypes.CDLL(None).prctl(PR_SET_NAME, name.encode())
