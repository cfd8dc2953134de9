"""Who else holds the NPU's device nodes, by the descriptors of the system's processes. Read when somebody asks.

The kernel tells it nowhere else without root (board-facts 5): neither the driver's files nor fdinfo name a process.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exo_rkllm.board import files
from exo_rkllm.board.detect import Board

# A scrape, a page and `top` may ask several times a second.
KEEP = 5.0
NAME = 40
INTERPRETERS = ("python", "node", "sh", "bash")


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Other programs that hold the NPU's nodes, with the number of their processes.

    `complete` is False where this user may not look into every process: then nobody in `names` proves nothing.
    """

    names: Mapping[str, int]
    complete: bool

    @property
    def text(self) -> str:
        return ", ".join(f"{name} ({count} processes)" if count > 1 else name for name, count in self.names.items())

    def plain(self) -> dict[str, Any]:
        return {"names": dict(self.names), "complete": self.complete}


def find_neighbours(root: Path, board: Board, own: int) -> Neighbours:
    """Processes below `root`/proc that have one of the board's NPU nodes open, without `own` and its descendants."""
    nodes = {node.path for node in board.npu.nodes} if board.npu is not None else set()
    proc = root / "proc"
    pids = [int(name) for name in files.names(proc) if name.isdecimal()]
    # Where processes are hidden (ProtectProc=, hidepid=), so is the first one.
    complete = 1 in pids
    if not nodes:
        return Neighbours({}, complete)
    ours = _descendants(proc, pids, own)
    names: Counter[str] = Counter()
    for pid in pids:
        if pid in ours:
            continue
        try:
            if any(target in nodes for target in _targets(proc / str(pid) / "fd")):
                names[_name(proc / str(pid))] += 1
        except PermissionError:
            complete = False
        except OSError:
            continue  # it has ended
    return Neighbours(dict(sorted(names.items())), complete)


def _targets(folder: Path) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                yield str(Path(entry.path).readlink())
            except FileNotFoundError:
                continue  # closed meanwhile


def _descendants(proc: Path, pids: list[int], own: int) -> set[int]:
    parents = {pid: _parent(proc / str(pid)) for pid in pids}
    ours = {own}
    while more := {pid for pid, parent in parents.items() if parent in ours} - ours:
        ours |= more
    return ours


def _parent(folder: Path) -> int | None:
    """The fourth field of stat; the second, a name in brackets, may hold anything."""
    fields = (files.text(folder / "stat") or "").rpartition(")")[2].split()
    return int(fields[1]) if len(fields) > 1 and fields[1].isdecimal() else None


def _name(folder: Path) -> str:
    """What the process calls itself, or for an interpreter the script that it runs."""
    name = files.clean(files.text(folder / "comm") or "", NAME) or f"process {folder.name}"
    if name.startswith(INTERPRETERS):
        words = files.strings(folder / "cmdline")[1:]
        script = next((word for word in words if not word.startswith("-")), "")
        return files.clean(Path(script).name, NAME) or name
    return name


class NeighbourWatch:
    """The neighbours as of the last KEEP seconds, for whoever asks often."""

    def __init__(self, look: Callable[[], Neighbours]) -> None:
        self._look = look
        self._latest: tuple[float, Neighbours] | None = None

    def read(self) -> Neighbours:
        now = time.monotonic()
        if self._latest is None or now - self._latest[0] > KEEP:
            self._latest = now, self._look()
        return self._latest[1]
