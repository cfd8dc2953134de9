"""What the kernel says a process has used so far."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Used:
    cpu: float
    wakeups: int
    rss: int

    def __sub__(self, earlier: Used) -> Used:
        return Used(self.cpu - earlier.cpu, self.wakeups - earlier.wakeups, self.rss - earlier.rss)

    def __add__(self, other: Used) -> Used:
        return Used(self.cpu + other.cpu, self.wakeups + other.wakeups, self.rss + other.rss)


def used(pid: int) -> Used:
    """CPU from the scheduler's own nanosecond count; a wake-up is a voluntary switch of any of its threads."""
    cpu, wakeups, rss = 0.0, 0, 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        cpu += int((task / "schedstat").read_text().split()[0]) / 1e9
        for line in (task / "status").read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches"):
                wakeups += int(line.split()[1])
    rss = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
    return Used(cpu, wakeups, rss)
