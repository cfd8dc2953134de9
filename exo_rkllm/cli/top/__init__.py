"""`exo-rkllm top`: the NPU, the models and the requests, once a second, in the terminal."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from exo_rkllm.board.counters import read
from exo_rkllm.board.detect import detect
from exo_rkllm.board.sources import find_sources
from exo_rkllm.cli.top import draw
from exo_rkllm.cli.top.view import Snapshot, View, view
from exo_rkllm.client.control import daemon_status
from exo_rkllm.config import load


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--root", metavar="DIR", type=Path, help="a board's /sys, /proc and /dev below this folder")
    parser.add_argument("--once", action="store_true", help="print it once, as when the output is not a terminal")
    parser.epilog = "Keys: s the next column to sort by, r the other way round, space to pause, q to quit."


def main(args: argparse.Namespace) -> int:
    root = args.root or Path(load(os.environ).board.root)
    look = looking(root)
    if args.once or not sys.stdout.isatty():
        print(*draw.plain(once(look)), sep="\n")
        return 0
    from exo_rkllm.cli.top.screen import run

    return run(look)


def looking(root: Path) -> Callable[[], Snapshot]:
    """The machine and the daemon, seen together; the board is detected anew where a driver came or went."""
    board = detect(root)
    sources = find_sources(root, board)

    def look() -> Snapshot:
        nonlocal board, sources
        reading = read(sources)
        if board.npu is None or "power" in reading.absent or "load" in reading.absent:
            board = detect(root)
            sources = find_sources(root, board)
            reading = read(sources)
        return Snapshot(time.monotonic(), time.time(), board, reading, daemon_status(os.environ))

    return look


def once(look: Callable[[], Snapshot]) -> View:
    """Speeds are differences, so a board that serves is looked at twice."""
    first = look()
    if not (first.service.status or {}).get("models"):
        return view(first)
    time.sleep(1.0)
    return view(look(), first)
