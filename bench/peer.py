"""What a token costs in another server with OpenAI's API, in rounds beside ours and the floor's.

    PEER_PORT=8000 PEER_PID=1234 PEER_MODEL=paced python -m bench peer

The other server is started by hand, with the simulator for its library and a model whose tokens are the clock, as
`models` in bench/http.py writes one. With IDLE=1 a process of the lowest kind spins on each processor meanwhile: a
virtual machine's processors then never halt, and what a hypervisor takes for waking them is in nobody's figures.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from bench.http import PACED, ROUNDS, Connection, family, relay, served, sum_of
from bench.rounds import Round, since
from bench.table import Row, show

Measured = Callable[[], Round]
CLOCK = re.compile(rb'"content": ?" ?([0-9]{6,})')


@contextmanager
def awake() -> Iterator[None]:
    """Every processor has something to do that gives way to anything else."""
    spinning = []
    for cpu in os.sched_getaffinity(0) if os.environ.get("IDLE") else ():
        pid = os.fork()
        if pid == 0:
            os.sched_setaffinity(0, {cpu})
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
            while True:
                pass
        spinning.append(pid)
    try:
        yield
    finally:
        for pid in spinning:
            os.kill(pid, 9)
            os.waitpid(pid, 0)


def asked(pid: int, port: int, model: str) -> Measured:
    def measure() -> Round:
        connection = Connection(port)
        before = family(pid)
        delays = list(arrivals(connection.ask(model, "hi", PACED)))
        spent = family(pid) - before
        connection.socket.close()
        return Round.of(delays, spent)

    return measure


def arrivals(stream: Iterator[bytes]) -> Iterator[float]:
    """As in bench/http.py, for whatever spaces a server puts into its JSON."""
    for data in stream:
        now = time.monotonic_ns()
        for digits in CLOCK.findall(data):
            yield (now - int(digits)) / 1e6


def rows(who: str, rounds: list[Round], floor: list[Round]) -> list[Row]:
    return [
        Row(f"{who}: callback to client, median", "ms", [one.median for one in rounds]),
        Row("  99th percentile", "ms", [one.tail for one in rounds]),
        Row("  CPU a token", "µs", [one.cpu for one in rounds]),
        Row("  wake-ups a token", "", [one.wakeups for one in rounds]),
        Row("  median over the floor's", "times", [a.median / b.median for a, b in zip(rounds, floor, strict=True)]),
        Row("  CPU over the floor's", "times", [a.cpu / b.cpu for a, b in zip(rounds, floor, strict=True)]),
    ]


def main() -> None:
    port, pid, model = (os.environ.get(f"PEER_{name}", "") for name in ("PORT", "PID", "MODEL"))
    with served() as (own, connection), relay() as (helpers, direct), awake():

        def least() -> Round:
            before = sum_of(helpers)
            direct.sendall(b"go")
            delays = [since(direct) for _ in range(PACED)]
            return Round.of(delays, sum_of(helpers) - before)

        sides: dict[str, Measured] = {"the floor": least, "exo-rkllm": asked(own, connection.port, "paced")}
        if port:
            sides["the other"] = asked(int(pid), int(port), model)
        for measure in sides.values():
            measure()  # the first answer loads a model
        taken: dict[str, list[Round]] = {who: [] for who in sides}
        for _ in range(ROUNDS):
            for who, measure in sides.items():
                taken[who].append(measure())
    for who, rounds in taken.items():
        show(f"HTTP stream at 20 tokens/s: {who}", rows(who, rounds, taken["the floor"]))
