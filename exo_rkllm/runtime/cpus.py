"""Which CPUs the library's threads get where nobody says it."""

from __future__ import annotations

from collections.abc import Collection

THREADS = 4
# The library's mask has a bit for CPU0 to CPU7 (reference 1.2).
MOST = 8


def default_cpus(allowed: Collection[int]) -> tuple[int, ...]:
    """Four, as in the vendor's demos: the big cores 4-7 of an 8-CPU SoC, 0-3 elsewhere.

    Where fewer may be used, others of the same cluster fill up: a count below the model's NPU cores is refused, and the
    scheduler keeps the threads where they may run.
    """
    usable = sorted(cpu for cpu in allowed if cpu < MOST)
    chosen = usable[-THREADS:]
    first = THREADS if chosen and chosen[-1] >= THREADS else 0
    fill = [cpu for cpu in range(first, first + THREADS) if cpu not in chosen]
    return tuple(sorted(chosen + fill[: THREADS - len(chosen)]))


def mask_of(cpus: Collection[int]) -> int:
    return sum(1 << cpu for cpu in set(cpus))
