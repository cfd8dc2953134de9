"""What a token costs in another server with OpenAI's API, in rounds beside ours and the floor's.

    PEER_PORT=8000 PEER_PID=1234 PEER_MODEL=paced python -m bench peer

The other server is started by hand, with the simulator for its library and a model whose tokens are the clock, as
`models` in bench/http.py writes one.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from bench.http import ROUNDS, Connection, of_floor, of_server, relay, served
from bench.rounds import Round
from bench.table import Row, show


def rows(who: str, rounds: Sequence[Round], floor: Sequence[Round]) -> list[Row]:
    return [
        Row(f"{who}: callback to client, median", "ms", [one.median for one in rounds]),
        Row("  99th percentile", "ms", [one.tail for one in rounds]),
        Row("  CPU a token", "µs", [one.cpu for one in rounds]),
        Row("  wake-ups a token", "", [one.wakeups for one in rounds]),
        Row("  median over the floor's", "times", [a.median / b.median for a, b in zip(rounds, floor, strict=True)]),
        Row("  CPU over the floor's", "times", [a.cpu / b.cpu for a, b in zip(rounds, floor, strict=True)]),
    ]


def other() -> Round:
    """A connection of its own, since some servers close one that is silent for a while."""
    connection = Connection(int(os.environ["PEER_PORT"]))
    try:
        return of_server(int(os.environ["PEER_PID"]), connection, os.environ["PEER_MODEL"])
    finally:
        connection.socket.close()


def main() -> None:
    with served() as (pid, connection), relay() as (helpers, direct):
        sides = {
            "the floor": lambda: of_floor(helpers, direct),
            "exo-rkllm": lambda: of_server(pid, connection, "paced"),
            "the other": other,
        }
        for measure in sides.values():
            measure()  # the first answer loads a model
        rounds = [[measure() for measure in sides.values()] for _ in range(ROUNDS)]
    floor, *_ = columns = list(zip(*rounds, strict=True))
    for who, column in zip(sides, columns, strict=True):
        show(f"HTTP stream at 20 tokens/s: {who}", rows(who, column, floor))
