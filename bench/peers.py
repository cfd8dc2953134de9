"""Another server with OpenAI's API, in rounds beside ours: what a token costs, and how long the first one takes.

    python -m bench peers --models FOLDER                # writes the models that the other server is to load
    python -m bench peers --with http://127.0.0.1:8000

The other server is started by hand on this machine, with the simulator for its library and with these models, whose
tokens are the clock. Its processes are found by its port, which wants the same user or root. It has to take contexts of
a million tokens, or refuses the long prompts.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

from bench.handover import bare, conversation
from bench.http import CLOCK, ROUNDS, Connection, models, of_floor, of_server, relay, served
from bench.rig import board
from bench.rounds import Round
from bench.table import Row, show

# A listening socket, in /proc/net/tcp.
LISTENS = "0A"
PROMPTS: Mapping[str, list[dict[str, str]]] = {
    "1 message": conversation(1, 40),
    "1 message, 100 kB": conversation(1, 100_000),
    "1 message, 400 kB": conversation(1, 400_000),
    "201 messages, 116 kB": conversation(201, 116_000),
}
FIRSTS = 15


def rows(who: str, rounds: Sequence[Round], floor: Sequence[Round]) -> list[Row]:
    return [
        Row(f"{who}: callback to client, median", "ms", [one.median for one in rounds]),
        Row("  99th percentile", "ms", [one.tail for one in rounds]),
        Row("  CPU a token", "µs", [one.cpu for one in rounds]),
        Row("  wake-ups a token", "", [one.wakeups for one in rounds]),
        Row("  median over the floor's", "times", [a.median / b.median for a, b in zip(rounds, floor, strict=True)]),
        Row("  99th percentile over it", "times", [a.tail / b.tail for a, b in zip(rounds, floor, strict=True)]),
        Row("  CPU over the floor's", "times", [a.cpu / b.cpu for a, b in zip(rounds, floor, strict=True)]),
    ]


@contextmanager
def connected(port: int) -> Iterator[Connection]:
    """One for each answer, since some servers close a connection that is silent for a while, or after an answer."""
    connection = Connection(port)
    try:
        yield connection
    finally:
        connection.socket.close()


def paced(port: int, pid: int, model: str) -> Round:
    with connected(port) as connection:
        return of_server(pid, connection, model)


def first_token(port: int, model: str, messages: list[dict[str, str]]) -> float:
    """Milliseconds from the request's first byte to the first token at the client."""
    first = 0.0
    with connected(port) as connection:
        began = time.monotonic()
        for data in connection.ask_all(model, messages, 2):
            if not first and CLOCK.search(data):
                first = time.monotonic() - began
    if not first:
        sys.exit(f"The server on port {port} answers a prompt of {len(messages)} messages without a token.")
    return first * 1e3


def first_tokens(sides: Mapping[str, tuple[int, str]]) -> list[Row]:
    """By turns, each prompt; the library alone runs the same prompts in a process of its own."""
    found: list[Row] = []
    with TemporaryDirectory() as folder:
        for what, messages in PROMPTS.items():
            times: dict[str, list[float]] = {who: [] for who in sides}
            for number in range(FIRSTS + 1):
                for who, (port, model) in sides.items():
                    took = first_token(port, model, messages)
                    times[who] += [took] if number else []  # the first answer may load the model
            found += [Row(f"{what}: {who}", "ms", taken) for who, taken in times.items()]
            length = sum(len(message["content"]) for message in messages)
            found.append(Row("  the library alone", "ms", bare(Path(folder) / f"{len(found)}", length)))
    return found


def listener(port: int) -> int:
    """The process that listens on that port of this machine: proc_net_tcp(5). Of several, the parent of the others."""
    inodes: set[str] = set()
    for table in ("tcp", "tcp6"):
        rows = (line.split() for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:])
        open_ports = [(int(row[1].rpartition(":")[2], 16), row[9]) for row in rows if row[3] == LISTENS]
        inodes |= {f"socket:[{inode}]" for number, inode in open_ports if number == port}
    for process in sorted(
        (path for path in Path("/proc").iterdir() if path.name.isdecimal()), key=lambda p: int(p.name)
    ):
        with suppress(OSError):
            if any(str(fd.readlink()) in inodes for fd in (process / "fd").iterdir()):
                return int(process.name)
    sys.exit(f"No process of yours listens on port {port}.")


def main() -> None:
    parser = argparse.ArgumentParser("python -m bench peers", description="Another server in rounds beside ours.")
    parser.add_argument("--with", dest="url", metavar="URL", help="where it listens, on this machine")
    parser.add_argument("--models", metavar="FOLDER", type=Path, help="an empty folder, for models and the board")
    parser.add_argument("--model", default="paced", help="its name of `paced`, whose tokens come at a board's pace")
    parser.add_argument("--brief", default="brief", help="its name of `brief`, which ends after two tokens")
    options = parser.parse_args(sys.argv[2:])
    if options.models is not None:
        models(options.models)
        board(options.models / "board")
        print(f"Start the other server with RKLLM_SIM_ROOT={options.models / 'board'}")
    if options.url is None:
        return
    port = urlsplit(options.url).port or 80
    their_pid = listener(port)
    with served() as (pid, connection), relay() as (helpers, direct):
        our_port = connection.socket.getpeername()[1]
        firsts = first_tokens({"exo-rkllm": (our_port, "brief"), "the other": (port, options.brief)})
        sides: dict[str, Callable[[], Round]] = {
            "the floor": lambda: of_floor(helpers, direct),
            "exo-rkllm": lambda: paced(our_port, pid, "paced"),
            "the other": lambda: paced(port, their_pid, options.model),
        }
        for measure in sides.values():
            measure()  # the first answer loads a model
        rounds = [[measure() for measure in sides.values()] for _ in range(ROUNDS)]
    show("Request to first token at the client", firsts)
    floor, *_ = columns = list(zip(*rounds, strict=True))
    for who, column in zip(sides, columns, strict=True):
        show(f"HTTP stream at 20 tokens/s: {who}", rows(who, column, floor))
