"""The figures that are kept from change to change: `python -m bench results` writes them, `bench check` compares.

bench/results.json holds them by version of Python. Instructions are those of bench/work.py; the ratio is that of the
processor time of daemon and child for a token in a burst to that of two bare processes, interleaved in the same run.
"""

from __future__ import annotations

import json
import os
import platform
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from bench import work
from bench.http import Connection, family, served, sum_of, words
from bench.rounds import STAMP, stamp

FILE = Path(__file__).with_suffix(".json")
# Worse than the committed figure by more than this, in two tries, is a change that has to be explained.
TOLERANCE = 1.25
TRIES = 3
BURST = 10_000
BATCH = 8  # about as many tokens come out of one read in a burst
ROUNDS = 5
RATIO = "CPU of a token in a burst, over two bare processes"


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
    with served() as (pid, connection), bare() as (helpers, direct):
        for _ in range(ROUNDS):
            ours.append(cpu_of(lambda: family(pid).cpu, lambda: burst(connection)))
            least.append(cpu_of(lambda: sum_of(helpers).cpu, lambda: bare_burst(direct)))
    return min(ours[1:]) / min(least[1:])


def cpu_of(used: Callable[[], float], run: Callable[[], object]) -> float:
    before = used()
    run()
    return used() - before


def burst(connection: Connection) -> None:
    assert sum(map(words, connection.ask("burst", "hi", BURST))) >= BURST - 1


def bare_burst(direct: socket.socket) -> None:
    direct.sendall(b"go")
    expected = BURST * STAMP
    while expected:
        expected -= len(direct.recv(1 << 16))


@contextmanager
def bare() -> Iterator[tuple[tuple[int, int], socket.socket]]:
    """A process that writes its clock into a socket, and a second that hands it on over TCP, as fast as it goes."""
    child_end, daemon_end = socket.socketpair()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        if (daemon := os.fork()) == 0:
            child_end.close()
            _hand_on(listener, daemon_end)
        client = socket.create_connection(listener.getsockname())
    if (child := os.fork()) == 0:
        daemon_end.close()
        client.close()
        _tick(child_end)
    child_end.close()
    daemon_end.close()
    try:
        yield (child, daemon), client
    finally:
        client.close()
        os.waitpid(daemon, 0)
        os.waitpid(child, 0)


def _tick(theirs: socket.socket) -> NoReturn:
    while theirs.recv(16):
        for _ in range(BURST):
            theirs.send(stamp())
    os._exit(0)


def _hand_on(listener: socket.socket, ours: socket.socket) -> NoReturn:
    client, _ = listener.accept()
    while order := client.recv(16):
        ours.send(order)
        for _ in range(BURST // BATCH):
            client.send(ours.recv(BATCH * STAMP, socket.MSG_WAITALL))
    os._exit(0)


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
