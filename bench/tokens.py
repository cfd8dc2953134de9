"""What a token costs between the library's callback and whoever iterates the engine, over parent and child."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

from bench.awake import awake
from bench.rig import engine
from bench.rounds import Round, since, stamp
from bench.syscalls import counted
from bench.table import Row, show
from bench.usage import Used, used
from exo_rkllm.backends.base import GenerationRequest, Piece
from exo_rkllm.backends.rkllm import RkllmEngine

ROUNDS = 3
BURST = 100_000
PACE = 20.0
# Enough that the last one, which comes with the end of the answer, is not the 99th percentile.
PACED = 120


async def listen(loaded: RkllmEngine, count: int) -> tuple[list[float], float]:
    """Milliseconds from each callback to the iterator, and seconds from the first piece to the last."""
    delays: list[float] = []
    first = 0.0
    async for event in loaded.generate(GenerationRequest(prompt="hi", max_tokens=count)):
        if isinstance(event, Piece) and event.text:
            now = time.monotonic_ns()
            first = first or now / 1e9
            delays.append((now - int(event.text)) / 1e6)
    return delays, time.monotonic() - first


async def burst() -> list[Row]:
    speeds, costs = [], []
    async with engine() as loaded:
        for _ in range(ROUNDS):
            before = both(loaded)
            _, seconds = await listen(loaded, BURST)
            speeds.append(BURST / seconds)
            costs.append((both(loaded) - before).cpu / BURST * 1e6)
    return [
        Row("tokens through, no simulated delay", "tokens/s", speeds, "60,000"),
        Row("CPU a token, parent and child", "µs", costs),
    ]


async def paced() -> list[Row]:
    """Each round beside its floors, since a machine's wake-ups cost twice as much from one minute to the next."""
    ours: list[Round] = []
    floor: list[Round] = []
    looped: list[Round] = []
    sleeps, sizes = [], []
    async with engine(tokens_per_second=PACE) as loaded:
        await listen(loaded, 5)
        for _ in range(ROUNDS):
            sleeps.append(bare_sleep(PACED // 2))
            floor.append(stamp_through_socket(PACED))
            looped.append(await stamp_through_loop(PACED))
            before = both(loaded)
            delays, _ = await listen(loaded, PACED)
            ours.append(Round.of(delays, both(loaded) - before))
            sizes.append(used(child(loaded)).rss / 1e6)
        with counted(os.getpid(), child(loaded)) as calls:
            await listen(loaded, PACED)
        pairs = list(zip(ours, floor, strict=True))
        return [
            Row("added, median", "ms", [one.median for one in ours], "0.05"),
            Row("  the floor's", "ms", [one.median for one in floor]),
            Row("  ours over it", "times", [one.median / least.median for one, least in pairs]),
            Row("  asyncio's own", "ms", [one.median for one in looped]),
            Row("added, 99th percentile", "ms", [one.tail for one in ours], "0.25"),
            Row("  the floor's", "ms", [one.tail for one in floor]),
            Row("  ours over it", "times", [one.tail / least.tail for one, least in pairs]),
            Row("CPU a token, parent and child", "µs", [one.cpu for one in ours], "40"),
            Row("  the floor's", "µs", [one.cpu for one in floor]),
            Row("  ours over it", "times", [one.cpu / least.cpu for one, least in pairs]),
            Row("  asyncio's own", "µs", [one.cpu for one in looped]),
            Row("  a sleep and nothing else", "µs", sleeps),
            Row("wake-ups a token, parent and child", "", [one.wakeups for one in ours], "2"),
            Row("  the floor's", "", [one.wakeups for one in floor]),
            *([] if calls.total is None else [Row("calls into the kernel a token", "", [calls.total / PACED])]),
            Row("child with library and model", "MB", sizes),
        ]


def bare_sleep(count: int) -> float:
    """CPU, which is what this machine takes for waking up at all."""
    before = used(os.getpid())
    for _ in range(count):
        time.sleep(1 / PACE)
    return (used(os.getpid()) - before).cpu / count * 1e6


def stamp_through_socket(count: int) -> Round:
    """The floor: a process that writes its clock into a socket in the same rhythm, and another that blocks in recv."""
    with stamping(count) as (sock, pid):
        before = used(os.getpid()) + used(pid)
        delays = [since(sock) for _ in range(count)]
        return Round.of(delays, used(os.getpid()) + used(pid) - before)


async def stamp_through_loop(count: int) -> Round:
    """The same, read by a callback of the loop that does nothing else: what is asyncio's, and what is ours."""
    loop, over = asyncio.get_running_loop(), asyncio.Event()
    delays: list[float] = []
    with stamping(count) as (sock, pid):

        def on_readable() -> None:
            delays.append(since(sock))
            if len(delays) == count:
                loop.remove_reader(sock)
                over.set()

        before = used(os.getpid()) + used(pid)
        loop.add_reader(sock, on_readable)
        await over.wait()
        return Round.of(delays, used(os.getpid()) + used(pid) - before)


@contextmanager
def stamping(count: int) -> Iterator[tuple[socket.socket, int]]:
    """A process that sends its clock as often, and no more than that; the socket to hear it by, and its number."""
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        for _ in range(count):
            time.sleep(1 / PACE)
            theirs.send(stamp())
        time.sleep(0.2)  # so that whoever counts still finds it
        os._exit(0)
    with ours, theirs:
        yield ours, pid
    os.waitpid(pid, 0)


def child(loaded: RkllmEngine) -> int:
    return loaded.pid or 0


def both(loaded: RkllmEngine) -> Used:
    return used(os.getpid()) + used(child(loaded))


def main() -> None:
    show("from the callback to the iterator, as fast as it goes", asyncio.run(burst()))
    show(f"from the callback to the iterator, at {PACE:g} tokens/s", asyncio.run(paced()))
    with awake():
        show(f"the same at {PACE:g} tokens/s, on processors that are kept awake", asyncio.run(paced()))
