"""`exo-rkllm top`: watch the NPU, the models and the requests, updated once a second."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from exo_rkllm.board.counters import read
from exo_rkllm.board.detect import detect
from exo_rkllm.board.neighbours import NeighbourWatch, find_neighbours
from exo_rkllm.board.sources import find_sources
from exo_rkllm.cli.top import draw
from exo_rkllm.cli.top.view import PastPoint, Snapshot, View, view
from exo_rkllm.client.control import daemon_status, find
from exo_rkllm.config import load
from exo_rkllm.errors import ExoRkllmError


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--root", metavar="DIR", type=Path, help="read /sys, /proc and /dev below this folder")
    parser.add_argument("--once", action="store_true", help="print the view once, as in a pipe")
    parser.epilog = (
        "Keys: the arrows select a model or an answer, u unloads it, l loads it, x stops the answer, s sorts by the "
        "next column, r reverses the order, h shows the daemon's last hour, space pauses, q quits. Loading, unloading "
        "and stopping is for members of the daemon's group."
    )


def main(args: argparse.Namespace) -> int:
    root = args.root or Path(load(os.environ).board.root)
    look = snapshots(root)
    if args.once or not sys.stdout.isatty():
        print(*draw.plain(once(look)), sep="\n")
        return 0
    from exo_rkllm.cli.top.screen import run

    return run(look, last_hour)


def last_hour() -> tuple[PastPoint, ...]:
    """As the daemon remembers it; nothing without a daemon."""
    try:
        client = find(os.environ)
        samples = [] if client is None else client.get("/control/history")["samples"]
        return tuple(
            PastPoint(one["time"], sum(one["load"]) / len(one["load"]) if one["load"] else None) for one in samples
        )
    except (ExoRkllmError, KeyError, TypeError):
        return ()


def snapshots(root: Path) -> Callable[[], Snapshot]:
    """A function that takes a snapshot. It detects the board again when the driver came or went."""
    board = detect(root)
    sources = find_sources(root, board)
    own = os.getpid()  # whose children are no neighbours
    neighbours = NeighbourWatch(lambda: find_neighbours(root, board, own))

    def look() -> Snapshot:
        nonlocal board, sources, own
        reading = read(sources)
        if board.npu is None or "power" in reading.absent or "load" in reading.absent:
            board = detect(root)
            sources = find_sources(root, board)
            reading = read(sources)
        service = daemon_status(os.environ)
        own = (service.status or {}).get("pid", os.getpid())
        return Snapshot(time.monotonic(), time.time(), board, reading, service, neighbours.read().names)

    return look


def once(look: Callable[[], Snapshot]) -> View:
    """Speeds are differences, so a board that serves needs two snapshots."""
    first = look()
    if not (first.service.status or {}).get("models"):
        return view(first)
    time.sleep(1.0)
    return view(look(), first)
