"""How much memory a model may still take, as the kernel sees it now."""

from __future__ import annotations

from pathlib import Path

KILOBYTE = 1024


def available(root: Path) -> int:
    """MemAvailable of the machine, or what is left of a container's or a unit's limit where that is less."""
    machine = _meminfo(root / "proc/meminfo").get("MemAvailable", 0) * KILOBYTE
    left = _left_of_limit(root)
    return machine if left is None else min(machine, left)


def _meminfo(path: Path) -> dict[str, int]:
    lines = (line.split() for line in path.read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) for words in lines if len(words) >= 2 and words[1].isdecimal()}


def _left_of_limit(root: Path) -> int | None:
    """cgroup v2 of this process. File pages count as used there although they are given back under pressure."""
    try:
        line = (root / "proc/self/cgroup").read_text().splitlines()[-1]
        group = root / "sys/fs/cgroup" / line.split("::", 1)[1].lstrip("/")
        limit = (group / "memory.max").read_text().strip()
        if not limit.isdecimal():
            return None
        used = int((group / "memory.current").read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return max(0, int(limit) - used + int(stat.get("inactive_file", 0)))
    except (OSError, IndexError, ValueError):
        return None
