"""What a token costs from the library's callback to a client of the HTTP API: daemon, child and network stack."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from aiohttp import web

from bench.rig import LIBRARY, board
from bench.table import Row, show
from bench.usage import Used, used
from exo_rkllm.api.application import application
from exo_rkllm.api.parts import Parts
from exo_rkllm.backends.base import Engine, Model
from exo_rkllm.backends.dummy import DummyEngine
from exo_rkllm.backends.host import Host
from exo_rkllm.backends.rkllm import RkllmEngine
from exo_rkllm.catalogue.dialogue import Dialogue
from exo_rkllm.catalogue.store import Catalogue
from exo_rkllm.dispatch.dispatcher import Dispatcher
from exo_rkllm.dispatch.state import Needs
from simulator.model_file import SimModel, write

ROUNDS = 5
BURST = 50_000
PACE = 20.0
PACED = 60
FIRSTS = 40
CONTEXT = 1 << 20
PATH = "/v1/chat/completions"


# ── the served side, a process of its own ────────────────────────────────────────────────────────


def models(folder: Path) -> None:
    for name, pace in (("burst", 0.0), ("paced", PACE)):
        (folder / name).mkdir()
        words = SimModel(
            reply="one two three four five", endless=True, clock=True, max_context=CONTEXT, decode_tps=pace
        )
        write(folder / name / "bench.rkllm", words)
        card = f'id = "{name}"\ncontext = {CONTEXT}\n[weights]\nfile = "bench.rkllm"\n'
        (folder / name / "model.toml").write_text(card)
    (folder / "dummy").mkdir()
    (folder / "dummy" / "model.toml").write_text(f'id = "dummy"\nengine = "dummy"\ncontext = {CONTEXT}\n')


def make(model: Model) -> Engine:
    return DummyEngine(model) if model.engine == "dummy" else RkllmEngine(model, Host(lambda _lines: None, LIBRARY))


async def serve(folder: Path) -> None:
    catalogue = Catalogue(folder)
    dispatcher = Dispatcher(
        find=catalogue.resolve,
        engine=make,
        needs=lambda model: Needs(),
        available=lambda: 1 << 40,
        begin=Dialogue.begin,
    )
    runner = web.AppRunner(application(Parts(dispatcher, catalogue)), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await dispatcher.drain(0)
    await runner.cleanup()


# ── the measuring side ───────────────────────────────────────────────────────────────────────────


class Connection:
    """A client that costs next to nothing: it blocks, and bytes are counted, not parsed."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))

    def ask(self, model: str, content: str, tokens: int) -> Iterator[bytes]:
        """What arrives, as it arrives."""
        messages = [{"role": "user", "content": content}]
        body = json.dumps({"model": model, "messages": messages, "max_tokens": tokens, "stream": True}).encode()
        head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        self.socket.sendall(head.encode() + body)
        tail = b""
        while not tail.endswith(b"0\r\n\r\n"):
            data = self.socket.recv(1 << 18)
            if not data:
                raise ConnectionError("the server closed")
            tail = (tail + data)[-16:]
            yield data


@contextmanager
def served() -> Iterator[tuple[int, Connection]]:
    with TemporaryDirectory() as root, TemporaryDirectory() as folder:
        board(Path(root))
        models(Path(folder))
        process = subprocess.Popen(
            [sys.executable, "-m", "bench.http", folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout and process.stdin
        connection = Connection(int(process.stdout.readline()))
        try:
            yield process.pid, connection
        finally:
            connection.socket.close()
            process.stdin.close()
            process.wait(20)


def family(pid: int) -> Used:
    """The server and its children."""
    total = used(pid)
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            total = total + used(int(child))
    return total


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
    middles, tails, costs, wakeups = [], [], [], []
    with served() as (pid, connection):
        for _ in connection.ask("paced", "hi", 5):
            pass
        for _ in range(ROUNDS):
            before = family(pid)
            delays = sorted(arrivals(connection.ask("paced", "hi", PACED)))
            spent = family(pid) - before
            middles.append(delays[len(delays) // 2])
            tails.append(delays[int(len(delays) * 0.99)])
            costs.append(spent.cpu / PACED * 1e6)
            wakeups.append(spent.wakeups / PACED)
    return [
        Row("callback to client, median", "ms", middles, "0.15"),
        Row("callback to client, 99th percentile", "ms", tails, "0.5"),
        Row("CPU a token, daemon and child", "µs", costs, "80"),
        Row("wake-ups a token, daemon and child", "", wakeups, "2"),
    ]


def arrivals(stream: Iterator[bytes]) -> Iterator[float]:
    """Milliseconds since the clock that the simulated library wrote into each token."""
    for data in stream:
        now = time.monotonic_ns()
        for part in data.split(b'"content":"')[1:]:
            digits = part.partition(b'"')[0].strip()
            if digits.isdigit():
                yield (now - int(digits)) / 1e6


def floor() -> list[Row]:
    """The same rhythm without any of our code: an asyncio timer that writes a line to a TCP connection."""
    middles, costs = [], []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        pid = os.fork()
        if pid == 0:
            asyncio.run(write_in_rhythm(listener))
            os._exit(0)
        for _ in range(ROUNDS):
            connection = socket.create_connection(listener.getsockname())
            before = used(pid)
            delays = sorted(arrivals(iter(lambda: connection.recv(65536), b"")))  # noqa: B023 - read to its end here
            costs.append((used(pid) - before).cpu / PACED * 1e6)
            middles.append(delays[len(delays) // 2])
            connection.close()
        os.waitpid(pid, 0)
    return [
        Row("floor: asyncio timer to TCP reader, median", "ms", middles),
        Row("floor: CPU of that, the writer's side", "µs", costs),
    ]


async def write_in_rhythm(listener: socket.socket) -> None:
    listener.setblocking(False)
    for _ in range(ROUNDS):
        accepted, _ = await asyncio.get_running_loop().sock_accept(listener)
        _, writer = await asyncio.open_connection(sock=accepted)
        for _ in range(PACED):
            await asyncio.sleep(1 / PACE)
            writer.write(f'{{"content":"{time.monotonic_ns()}"}}{"." * 150}'.encode())
        writer.close()


def first() -> list[Row]:
    """From a request's first byte to its answer's, with nothing to compute."""
    delays = []
    with served() as (_, connection):
        for _ in range(FIRSTS):
            began = time.monotonic()
            times = [time.monotonic() for _ in connection.ask("dummy", "hi", 1)]
            delays.append((times[0] - began) * 1e3)
    return [Row("request to first byte, dummy engine", "ms", delays[1:], "3")]


def main() -> None:
    show("HTTP stream to one client", [*burst("dummy"), *burst("burst")])
    show(f"HTTP stream at {PACE:g} tokens/s", [*paced(), *floor(), *first()])


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
