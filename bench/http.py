"""What a token costs from the library's callback to a client of the HTTP API: daemon, child and network stack."""

from __future__ import annotations

import json
import os
import re
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NoReturn

from bench.awake import awake
from bench.daemon import daemon, port
from bench.rounds import STAMP, Round, since, stamp
from bench.syscalls import counted
from bench.table import Row, show
from bench.usage import Used, used
from simulator.model_file import SimModel, write

ROUNDS = 3
ALTERNATIONS = 7
BURST = 50_000
PACE = 20.0
QUICK = 100.0
# Enough that the last one, which comes with the end of the answer, is not the 99th percentile.
PACED = 120
WARM = 20
FIRSTS = 40
SILENCE = 5.0
CONTEXT = 1 << 20
PATH = "/v1/chat/completions"
# A token's text, whatever spaces a server puts into its JSON.
CLOCK = re.compile(rb'"content": ?" ?([0-9]{6,})')


# ── the served side, a daemon ────────────────────────────────────────────────────────────────────


def models(folder: Path) -> None:
    """`paced` and `brief` end by themselves, for servers that take no limit."""
    for name, pace, tokens in (("burst", 0.0, 0), ("paced", PACE, PACED), ("quick", QUICK, 0), ("brief", 0.0, 2)):
        (folder / name).mkdir()
        words = SimModel(
            reply="word " * (tokens or 5), endless=not tokens, clock=True, max_context=CONTEXT, decode_tps=pace
        )
        write(folder / name / "bench.rkllm", words)
        card = f'id = "{name}"\ncontext = {CONTEXT}\n[weights]\nfile = "bench.rkllm"\n'
        (folder / name / "model.toml").write_text(card)
    (folder / "dummy").mkdir()
    (folder / "dummy" / "model.toml").write_text(f'id = "dummy"\nengine = "dummy"\ncontext = {CONTEXT}\n')


# ── the measuring side ───────────────────────────────────────────────────────────────────────────


class Connection:
    """A client that costs next to nothing: it blocks, and bytes are counted, not parsed."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))

    def ask(self, model: str, content: str, tokens: int) -> Iterator[bytes]:
        """What arrives, as it arrives."""
        return self.ask_all(model, [{"role": "user", "content": content}], tokens)

    def ask_all(self, model: str, messages: list[dict[str, str]], tokens: int) -> Iterator[bytes]:
        body = json.dumps({"model": model, "messages": messages, "max_tokens": tokens, "stream": True}).encode()
        kind = "Content-Type: application/json"
        head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\n{kind}\r\nContent-Length: {len(body)}\r\n\r\n"
        self.socket.sendall(head.encode() + body)
        tail = b""
        while not tail.endswith(b"0\r\n\r\n"):
            data = self.socket.recv(1 << 18)
            if not data:
                raise ConnectionError("the server closed")
            tail = (tail + data)[-16:]
            yield data


@contextmanager
def served(module: str = "exo_rkllm") -> Iterator[tuple[int, Connection]]:
    """The daemon with the models above; `module` is the one that starts it."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "models").mkdir()
        models(folder / "models")
        with daemon(folder, module=module) as (process, _):
            connection = Connection(port(folder))
            try:
                yield process.pid, connection
            finally:
                connection.socket.close()


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def sum_of(pids: Iterable[int]) -> Used:
    return sum(map(used, pids), Used(0, 0, 0))


def family(pid: int) -> Used:
    """The server and its children."""
    return sum_of((pid, *children(pid)))


def words(data: bytes) -> int:
    return data.count(b'"content":') - data.count(b'"content":""')


def burst(model: str) -> list[Row]:
    speeds, costs, reads = [], [], []
    with served() as (pid, connection):
        content = "word " * BURST if model == "dummy" else "hi"
        for _ in range(ROUNDS):
            before = family(pid)
            times, counts = [], []
            for data in connection.ask(model, content, BURST):
                times.append(time.monotonic())
                counts.append(words(data))
            speeds.append(sum(counts[1:]) / (times[-1] - times[0]))
            costs.append((family(pid) - before).cpu / sum(counts) * 1e6)
            reads.append(sum(counts) / len(counts))
    return [
        Row(f"{model}: tokens through, no delay", "tokens/s", speeds, "35,000"),
        Row(f"{model}: CPU a token, all processes", "µs", costs),
        Row(f"{model}: tokens a read", "", reads),
    ]


def paced() -> list[Row]:
    """Each round beside one of the floor, as in bench/tokens.py."""
    ours: list[Round] = []
    least: list[Round] = []
    with served() as (pid, connection), relay() as (helpers, direct):
        for _ in connection.ask("paced", "hi", 5):
            pass
        for _ in range(ROUNDS):
            least.append(of_floor(helpers, direct))
            ours.append(of_server(pid, connection, "paced"))
        with counted(pid, *children(pid)) as calls:
            for _ in connection.ask("paced", "hi", PACED):
                pass
    pairs = list(zip(ours, least, strict=True))
    return [
        Row("callback to client, median", "ms", [one.median for one in ours], "0.15"),
        Row("  the floor's", "ms", [one.median for one in least]),
        Row("  ours over it", "times", [one.median / floor.median for one, floor in pairs]),
        Row("callback to client, 99th percentile", "ms", [one.tail for one in ours], "0.5"),
        Row("  the floor's", "ms", [one.tail for one in least]),
        Row("  ours over it", "times", [one.tail / floor.tail for one, floor in pairs]),
        Row("CPU a token, daemon and child", "µs", [one.cpu for one in ours], "80"),
        Row("  the floor's", "µs", [one.cpu for one in least]),
        Row("  ours over it", "times", [one.cpu / floor.cpu for one, floor in pairs]),
        Row("wake-ups a token, daemon and child", "", [one.wakeups for one in ours], "2"),
        Row("  the floor's", "", [one.wakeups for one in least]),
        *([] if calls.total is None else [Row("calls into the kernel a token", "", [calls.total / PACED])]),
    ]


def of_server(pid: int, connection: Connection, model: str) -> Round:
    return of_tokens(arrivals(connection.ask(model, "hi", PACED)), lambda: family(pid))


def of_floor(helpers: Iterable[int], direct: socket.socket) -> Round:
    direct.sendall(b"go")
    return of_tokens((since(direct) for _ in range(PACED)), lambda: sum_of(helpers))


def of_tokens(delays: Iterator[float], spent: Callable[[], Used]) -> Round:
    """Without the first ones: on a machine that was silent before, they pay for the silence."""
    for _ in range(WARM):
        next(delays)
    before = spent()
    return Round.of(list(delays), spent() - before)


def arrivals(stream: Iterator[bytes]) -> Iterator[float]:
    """Milliseconds since the clock that the simulated library wrote into each token."""
    for data in stream:
        now = time.monotonic_ns()
        for digits in CLOCK.findall(data):
            yield (now - int(digits)) / 1e6


@contextmanager
def relay() -> Iterator[tuple[tuple[int, int], socket.socket]]:
    """The floor: a process that writes its clock into a socket, and a second that hands it on over TCP; both block."""
    child_end, daemon_end = socket.socketpair()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        daemon = os.fork()
        if daemon == 0:
            child_end.close()
            hand_on(listener, daemon_end)
        client = socket.create_connection(listener.getsockname())
    child = os.fork()
    if child == 0:
        daemon_end.close()
        client.close()
        tick(child_end)
    child_end.close()
    daemon_end.close()
    try:
        yield (child, daemon), client
    finally:
        client.close()
        os.waitpid(daemon, 0)
        os.waitpid(child, 0)


def tick(theirs: socket.socket) -> NoReturn:
    while theirs.recv(16):
        for _ in range(PACED):
            time.sleep(1 / PACE)
            theirs.send(stamp())
    os._exit(0)


def hand_on(listener: socket.socket, ours: socket.socket) -> NoReturn:
    client, _ = listener.accept()
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while order := client.recv(16):
        ours.send(order)
        for _ in range(PACED):
            client.send(ours.recv(STAMP, socket.MSG_WAITALL))
    os._exit(0)


def first() -> list[Row]:
    """From a request's first byte to its answer's, with nothing to compute."""
    with served() as (_, connection):

        def delay(silence: float = 0.0) -> float:
            time.sleep(silence)
            began = time.monotonic()
            times = [time.monotonic() for _ in connection.ask("dummy", "hi", 1)]
            return (times[0] - began) * 1e3

        delay()
        return [
            Row("request to first byte, dummy engine", "ms", [delay() for _ in range(FIRSTS)], "3"),
            Row(f"  after {SILENCE:g} s of silence", "ms", [delay(SILENCE) for _ in range(ROUNDS)]),
        ]


# ── two served sides beside one another ──────────────────────────────────────────────────────────


def compare(title: str, plain: tuple[str, str], faster: tuple[str, str]) -> None:
    """The table of two served sides, each its name and its module; `faster` is worth a tenth of what a token costs.

    Rounds of the two alternate, so that whatever else the machine does hits both.
    """
    rounds: list[tuple[Round, Round]] = []
    with served(plain[1]) as (plain_pid, plain_client), served(faster[1]) as (faster_pid, faster_client):
        for connection in (plain_client, faster_client):
            for _ in connection.ask("paced", "hi", 5):
                pass
        for _ in range(ALTERNATIONS):
            one = of_server(plain_pid, plain_client, "paced")
            rounds.append((one, of_server(faster_pid, faster_client, "paced")))
    over = f"  {plain[0]} over {faster[0]}"
    show(
        f"{title} at {PACE:g} tokens/s",
        [
            Row(f"CPU a token, {plain[0]}", "µs", [one.cpu for one, _ in rounds]),
            Row(f"CPU a token, {faster[0]}", "µs", [other.cpu for _, other in rounds]),
            Row(over, "times", [one.cpu / other.cpu for one, other in rounds], "1.1"),
            Row(f"callback to client, median, {plain[0]}", "ms", [one.median for one, _ in rounds]),
            Row(f"callback to client, median, {faster[0]}", "ms", [other.median for _, other in rounds]),
            Row(over, "times", [one.median / other.median for one, other in rounds]),
        ],
    )


def main() -> None:
    show("HTTP stream to one client", [*burst("dummy"), *burst("burst")])
    show(f"HTTP stream at {PACE:g} tokens/s", [*paced(), *first()])
    with awake():
        show(f"the same at {PACE:g} tokens/s, on processors that are kept awake", [*paced(), *first()])
