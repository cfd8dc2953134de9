"""What a token costs from the library's callback to a client of the HTTP API: daemon, child and network stack."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
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
    """A client that costs next to nothing: bytes are counted, not parsed."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def ask(self, model: str, content: str, tokens: int) -> AsyncIterator[bytes]:
        """What arrives, as it arrives."""
        body = json.dumps(
            {
                "model": model,
                "messages": [{"role": "user", "content": content}],
                "max_tokens": tokens,
                "stream": True,
            }
        ).encode()
        head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        self._writer.write(head.encode() + body)
        tail = b""
        while not tail.endswith(b"0\r\n\r\n"):
            data = await self._reader.read(1 << 18)
            if not data:
                raise ConnectionError("the server closed")
            tail = (tail + data)[-16:]
            yield data


@asynccontextmanager
async def served() -> AsyncIterator[tuple[int, Connection]]:
    with TemporaryDirectory() as root, TemporaryDirectory() as folder:
        board(Path(root))
        models(Path(folder))
        process = subprocess.Popen(  # noqa: ASYNC220 - it lives as long as this block
            [sys.executable, "-m", "bench.http", folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout and process.stdin
        port = int(process.stdout.readline())
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
        try:
            yield process.pid, Connection(reader, writer)
        finally:
            writer.close()
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


async def burst(model: str) -> list[Row]:
    speeds, costs, writes = [], [], []
    async with served() as (pid, connection):
        content = "word " * BURST if model == "dummy" else "hi"
        for _ in range(ROUNDS):
            count, reads, began = 0, 0, 0.0
            before = family(pid)
            async for data in connection.ask(model, content, BURST):
                if not count:
                    began = time.monotonic()
                count += words(data)
                reads += 1
            seconds = time.monotonic() - began
            speeds.append(count / seconds)
            costs.append((family(pid) - before).cpu / count * 1e6)
            writes.append(count / reads)
    return [
        Row(f"{model}: tokens through, no delay", "tokens/s", speeds, "35,000"),
        Row(f"{model}: CPU a token, all processes", "µs", costs),
        Row(f"{model}: tokens a read", "", writes),
    ]


async def paced() -> list[Row]:
    middles, tails, costs, wakeups = [], [], [], []
    async with served() as (pid, connection):
        async for _ in connection.ask("paced", "hi", 5):
            pass
        for _ in range(ROUNDS):
            delays: list[float] = []
            before = family(pid)
            async for data in connection.ask("paced", "hi", PACED):
                now = time.monotonic_ns()
                delays += [(now - stamp) / 1e6 for stamp in stamps(data)]
            spent = family(pid) - before
            delays.sort()
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


def stamps(data: bytes) -> list[int]:
    """The clock that the simulated library wrote into each token."""
    parts = data.split(b'"content":"')[1:]
    return [int(digits) for part in parts if (digits := part.partition(b'"')[0].strip()).isdigit()]


async def first() -> list[Row]:
    """From a request's first byte to its answer's, with nothing to compute."""
    delays = []
    async with served() as (_, connection):
        for _ in range(FIRSTS):
            began = time.monotonic()
            async for _ in connection.ask("dummy", "hi", 1):
                delays.append((time.monotonic() - began) * 1e3)
                break
    return [Row("request to first byte, dummy engine", "ms", delays, "3")]


def main() -> None:
    rows = [*asyncio.run(burst("dummy")), *asyncio.run(burst("burst"))]
    show("HTTP stream to one client", rows)
    show(f"HTTP stream at {PACE:g} tokens/s", [*asyncio.run(paced()), *asyncio.run(first())])


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    asyncio.run(serve(Path(sys.argv[1])))
