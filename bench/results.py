"""The figures that are kept from change to change: `python -m bench results` writes them, `bench check` compares.

bench/results.json holds them by version of Python. Instructions are those of bench/work.py; the ratio is that of the
processor time of daemon and child for a token in a burst to that of a bare socket, interleaved in the same run.
"""

from __future__ import annotations

import json
import os
import platform
import socket
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bench import work
from bench.http import Connection, family, served, words
from bench.rounds import STAMP, stamp

FILE = Path(__file__).with_suffix(".json")
# Worse than the committed figure by more than this, in two tries, is a change that has to be explained.
TOLERANCE = 1.25
TRIES = 3
BURST = 10_000
ROUNDS = 8
RATIO = "CPU of a token in a burst, over a bare socket's"


def python() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def machine() -> str:
    return f"{platform.machine()}, {os.cpu_count()} processors"


# ── measuring ────────────────────────────────────────────────────────────────────────────────────


def measure() -> dict[str, float]:
    return {**work.measure(), RATIO: round(ratio(), 2)}


def ratio() -> float:
    """Of the least that each side took, since a disturbed round can only take more."""
    ours: list[float] = []
    least: list[float] = []
    with served() as (pid, connection):
        for _ in range(ROUNDS):
            ours.append(cpu_of(lambda: family(pid).cpu, lambda: burst(connection)))
            least.append(cpu_of(time.thread_time, floor))
    return min(ours[1:]) / min(least[1:])


def cpu_of(used: Callable[[], float], run: Callable[[], object]) -> float:
    before = used()
    run()
    return used() - before


def burst(connection: Connection) -> None:
    assert sum(map(words, connection.ask("burst", "hi", BURST))) >= BURST - 1


def floor() -> None:
    """As many clocks through a socket, by one thread. Two processes would share the work otherwise in each round."""
    sender, receiver = socket.socketpair()
    with sender, receiver:
        for _ in range(BURST):
            sender.send(stamp())
            receiver.recv(STAMP)


# ── comparing ────────────────────────────────────────────────────────────────────────────────────


def committed() -> Mapping[str, float]:
    """The figures of this version of Python; empty where nobody has written any."""
    found: Mapping[str, float] = _written().get(python(), {}).get("figures", {})
    return found


def _written() -> dict[str, Any]:
    return json.loads(FILE.read_text()) if FILE.exists() else {}


def table(now: Mapping[str, float], before: Mapping[str, float]) -> str:
    lines = [f"  {'':52} {'now':>10} {'committed':>10}   ratio"]
    for what, value in now.items():
        former = before.get(what)
        compared = f"{former:10,.4g}   {value / former:5.2f}" if former else f"{'-':>10}"
        lines.append(f"  {what:52} {value:10,.4g} {compared}")
    return "\n".join(lines)


def worse(now: Mapping[str, float], before: Mapping[str, float]) -> set[str]:
    """What is above the committed figure by more than the tolerance."""
    return {what for what, value in now.items() if what in before and value > before[what] * TOLERANCE}


def main() -> None:
    now, before = measure(), committed()
    print(f"Python {python()} on {machine()}\n{table(now, before)}")
    written = {**_written(), python(): {"machine": machine(), "figures": now}}
    FILE.write_text(json.dumps(written, indent=2, sort_keys=True) + "\n")
