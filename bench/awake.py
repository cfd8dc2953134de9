"""Processors that do not fall asleep: what is left of a delay is then the software's, not the machine's waking up.

A virtual machine's processor that has nothing to do is given away and has to be asked back, which takes longer than
everything else that happens to a token; a board's sleeps less deeply.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def awake() -> Iterator[None]:
    """On every processor a process that turns on the spot, and that the scheduler sets aside for any other at once."""
    spinners = [_spinner(processor) for processor in os.sched_getaffinity(0)]
    try:
        yield
    finally:
        for pid in spinners:
            os.kill(pid, 9)
            os.waitpid(pid, 0)


def _spinner(processor: int) -> int:
    pid = os.fork()
    if pid == 0:
        os.sched_setaffinity(0, [processor])
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        while os.getppid() != 1:
            sum(range(1000))
        os._exit(0)
    return pid
