"""What a token costs in another server with OpenAI's API, in rounds beside ours and the floor's.

    python -m bench peers --with http://127.0.0.1:8000 [--model NAME]

The other server is started by hand on this machine, with the simulator for its library and a model whose tokens are the
clock, as `models` in bench/http.py writes one. Its processes are found by its port, which wants the same user or root.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from bench.http import ROUNDS, Connection, of_floor, of_server, relay, served
from bench.rounds import Round
from bench.table import Row, show

# A listening socket, in /proc/net/tcp.
LISTENS = "0A"


def rows(who: str, rounds: Sequence[Round], floor: Sequence[Round]) -> list[Row]:
    return [
        Row(f"{who}: callback to client, median", "ms", [one.median for one in rounds]),
        Row("  99th percentile", "ms", [one.tail for one in rounds]),
        Row("  CPU a token", "µs", [one.cpu for one in rounds]),
        Row("  wake-ups a token", "", [one.wakeups for one in rounds]),
        Row("  median over the floor's", "times", [a.median / b.median for a, b in zip(rounds, floor, strict=True)]),
        Row("  CPU over the floor's", "times", [a.cpu / b.cpu for a, b in zip(rounds, floor, strict=True)]),
    ]


def other(port: int, pid: int, model: str) -> Round:
    """A connection of its own, since some servers close one that is silent for a while."""
    connection = Connection(port)
    try:
        return of_server(pid, connection, model)
    finally:
        connection.socket.close()


def listener(port: int) -> int:
    """The process that listens on that port of this machine: proc_net_tcp(5)."""
    inodes: set[str] = set()
    for table in ("tcp", "tcp6"):
        rows = (line.split() for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:])
        open_ports = [(int(row[1].rpartition(":")[2], 16), row[9]) for row in rows if row[3] == LISTENS]
        inodes |= {f"socket:[{inode}]" for number, inode in open_ports if number == port}
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            with suppress(OSError):
                if any(str(fd.readlink()) in inodes for fd in (process / "fd").iterdir()):
                    return int(process.name)
    sys.exit(f"No process of yours listens on port {port}.")


def main() -> None:
    parser = argparse.ArgumentParser("python -m bench peers", description="Another server in rounds beside ours.")
    parser.add_argument("--with", dest="url", required=True, metavar="URL", help="where it listens, on this machine")
    parser.add_argument("--model", default="paced", help="its name of the model whose tokens are the clock")
    options = parser.parse_args(sys.argv[2:])
    port = urlsplit(options.url).port or 80
    their_pid = listener(port)
    with served() as (pid, connection), relay() as (helpers, direct):
        sides: dict[str, Callable[[], Round]] = {
            "the floor": lambda: of_floor(helpers, direct),
            "exo-rkllm": lambda: of_server(pid, connection, "paced"),
            "the other": lambda: other(port, their_pid, options.model),
        }
        for measure in sides.values():
            measure()  # the first answer loads a model
        rounds = [[measure() for measure in sides.values()] for _ in range(ROUNDS)]
    floor, *_ = columns = list(zip(*rounds, strict=True))
    for who, column in zip(sides, columns, strict=True):
        show(f"HTTP stream at 20 tokens/s: {who}", rows(who, column, floor))
