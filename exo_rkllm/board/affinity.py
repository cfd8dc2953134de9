"""Keeps this process's own threads off the fast cores, and gives its children the CPUs that it was started with.

A sleeping server's wake-ups on the fast cores of an RK3576 slowed decoding to a fortieth (board-facts 5: oRKLLM, A).
Affinity belongs to the process, so what it was before stands here and not in an object.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from exo_rkllm.board import files
from exo_rkllm.socs import Soc

_before: frozenset[int] | None = None


def given_cpus() -> frozenset[int]:
    """The CPUs that this process was started with, whatever its own threads keep to now."""
    return _before if _before is not None else frozenset(os.sched_getaffinity(0))


def slow_cpus(root: Path, soc: Soc | None) -> frozenset[int]:
    """The CPUs of the slow cluster: by the kernel's capacities, else by the SoC's row; empty without clusters."""
    folder = root / "sys/devices/system/cpu"
    capacities = {
        int(path.name.removeprefix("cpu")): capacity
        for path in files.numbered(folder, "cpu")
        if (capacity := files.number(path / "cpu_capacity")) is not None
    }
    if capacities:
        top = max(capacities.values())
        return frozenset(cpu for cpu, capacity in capacities.items() if capacity < top)
    return frozenset(() if soc is None else soc.slow_cpus)


def shortage(soc: Soc | None, given: Collection[int]) -> str:
    """What to say where the vendor's library gets fewer CPUs than it wants threads; empty where it has enough."""
    if soc is None or len(given) >= soc.workers:
        return ""
    listed = ", ".join(map(str, sorted(given)))
    return (
        f"The service may use CPU {listed} only; the vendor's library wants {soc.workers} threads on the {soc.title}, "
        "each with a CPU of its own."
    )


def keep_to(cpus: Collection[int]) -> frozenset[int]:
    """Move every thread of ours to those of `cpus` that we were given, and return them.

    Nothing is moved, and the result is empty, where none of them was given: an operator's choice counts for more.
    """
    global _before
    given = given_cpus()
    if not (chosen := given & frozenset(cpus)):
        return chosen
    _before = given
    _move_threads(chosen)
    return chosen


def restore() -> None:
    """Let our threads run wherever we were started to run."""
    global _before
    if _before is not None:
        _move_threads(_before)
        _before = None


@contextmanager
def for_child() -> Iterator[None]:
    """A process that this thread starts inside gets the CPUs that we were given, not those that we keep to."""
    if _before is None:
        yield
        return
    own = os.sched_getaffinity(0)
    with suppress(OSError):
        os.sched_setaffinity(0, _before)
    try:
        yield
    finally:
        with suppress(OSError):
            os.sched_setaffinity(0, own)


def _move_threads(cpus: Collection[int]) -> None:
    """Threads that end meanwhile, and a sandbox that forbids it, are no errors: this makes answers faster only."""
    for name in files.names(Path("/proc/self/task")):
        with suppress(OSError):
            os.sched_setaffinity(int(name), cpus)
