"""The helper process itself: answers one job at a time within limits of processor time and memory.

It imports nothing but the standard library and the one function that it was started for, holds no descriptor but its
socket, and ends when that closes.
"""

from __future__ import annotations

import json
import marshal
import math
import os
import resource
import signal
import struct
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Any

from exo_rkllm.errors import ExoRkllmError

LENGTH = struct.Struct("<I")
# The first byte of an answer: the text that was asked for, or an error's code, sentence and hint as JSON.
TEXT, ERROR = b"t", b"e"
OPEN_FILES = 16
# A job whose daemon is gone ends with its processor time; one that uses none, so much later.
ALARM_SECONDS = 10
# The out-of-memory killer takes this process before any that holds a model.
OOM_SCORE = b"1000"


def limit(memory: int) -> None:
    """Bounds this process for good: `memory` bytes of address space, no files written, few opened, no core."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, OPEN_FILES))
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))


def limit_job(seconds: int) -> None:
    """So many seconds of processor time from now on: the limit counts a process's whole life."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    end = math.ceil(used.ru_utime + used.ru_stime) + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (end, resource.RLIM_INFINITY))


def read_exactly(sock: int, size: int) -> bytes:
    """So many bytes; EOFError when the daemon is gone."""
    parts = []
    while size:
        part = os.read(sock, min(size, 1 << 20))
        if not part:
            raise EOFError
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def write(sock: int, kind: bytes, data: bytes) -> None:
    frame = memoryview(LENGTH.pack(len(data) + 1) + kind + data)
    while frame:
        frame = frame[os.write(sock, frame) :]


def answer(work: Callable[..., str], job: bytes) -> tuple[bytes, bytes]:
    try:
        return TEXT, work(*marshal.loads(job)).encode()  # noqa: S302 - only the daemon writes here
    except ExoRkllmError as error:
        return ERROR, json.dumps([error.code, error.sentence, error.hint]).encode()
    except (MemoryError, RecursionError):
        return ERROR, json.dumps(["", "memory", ""]).encode()
    except Exception as error:  # noqa: BLE001 - a stranger's program may make anything fail
        return ERROR, json.dumps(["", f"{type(error).__name__}: {error}"[:300], ""]).encode()


def main(sock: int, memory: int, seconds: int, place: str) -> None:
    """Called by the command line that `Helper` builds; `place` is module:function of what answers."""
    with suppress(OSError), open("/proc/self/oom_score_adj", "wb", buffering=0) as score:  # noqa: PTH123 - as child.py
        score.write(OOM_SCORE)
    module, _, name = place.partition(":")
    work: Callable[..., Any] = getattr(import_module(module), name)
    limit(memory)
    try:
        write(sock, TEXT, b"")
        while True:
            (size,) = LENGTH.unpack(read_exactly(sock, LENGTH.size))
            job = read_exactly(sock, size)
            limit_job(seconds)
            signal.alarm(seconds + ALARM_SECONDS)
            result = answer(work, job)
            signal.alarm(0)
            write(sock, *result)
            del job, result
    except (EOFError, BrokenPipeError, ConnectionResetError):
        os._exit(0)
