"""The processes that this one has started."""

from __future__ import annotations

import contextlib
from pathlib import Path


def holds_model(pid: int) -> bool:
    """Whether a daemon's child has been told to load a model; its spare child has not been yet."""
    return Path(f"/proc/{pid}/comm").read_text() == "rkllm-model\n"


def children() -> dict[int, str]:
    """Their command lines by process id; empty for one that has ended and waits to be reaped."""
    found = {}
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # a thread or a process that has just ended
            for pid in map(int, (task / "children").read_text().split()):
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
                found[pid] = command.replace(b"\0", b" ").decode(errors="replace").strip()
    return found
