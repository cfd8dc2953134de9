"""What a token costs between the library's callback and whoever iterates the engine, over parent and child."""

from __future__ import annotations

import asyncio
import os
import socket
import time

from bench.rig import engine
from bench.table import Row, show
from bench.usage import Used, used
from exo_rkllm.backends.base import GenerationRequest, Piece
from exo_rkllm.backends.rkllm import RkllmEngine

ROUNDS = 5
BURST = 100_000
PACE = 20.0
PACED = 60


async def listen(loaded: RkllmEngine, count: int) -> tuple[list[int], float]:
    """Nanoseconds from each callback to the iterator, and seconds from the first piece to the last."""
    delays: list[int] = []
    first = 0.0
    async for event in loaded.generate(GenerationRequest(prompt="hi", max_tokens=count)):
        if isinstance(event, Piece) and event.text:
            now = time.monotonic_ns()
            first = first or now / 1e9
            delays.append(now - int(event.text))
    return delays, time.monotonic() - first


def quantile(values: list[int], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))] / 1e6


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
    middles, tails, costs, wakeups, sizes = [], [], [], [], []
    async with engine(tokens_per_second=PACE) as loaded:
        await listen(loaded, 5)
        for _ in range(ROUNDS):
            before = both(loaded)
            delays, _ = await listen(loaded, PACED)
            spent = both(loaded) - before
            middles.append(quantile(delays, 0.5))
            tails.append(quantile(delays, 0.99))
            costs.append(spent.cpu / PACED * 1e6)
            wakeups.append(spent.wakeups / PACED)
            sizes.append(used(child(loaded)).rss / 1e6)
    return [
        Row("added, median", "ms", middles, "0.05"),
        Row("added, 99th percentile", "ms", tails, "0.25"),
        Row("CPU a token, parent and child", "µs", costs, "40"),
        Row("wake-ups a token, parent and child", "", wakeups, "2"),
        Row("child with library and model", "MB", sizes),
    ]


def floor() -> list[Row]:
    """The same rhythm without any of our code: what this machine takes for a sleep, and for a byte through a socket."""
    sleeps, pairs, delays = [], [], []
    for _ in range(ROUNDS):
        before = used(os.getpid())
        for _ in range(PACED // 2):
            time.sleep(1 / PACE)
        sleeps.append((used(os.getpid()) - before).cpu / (PACED // 2) * 1e6)
        cost, delay = byte_through_socket(PACED // 2)
        pairs.append(cost)
        delays.append(delay)
    return [
        Row("CPU of a bare sleep", "µs", sleeps),
        Row("CPU of a timestamp over a socketpair, both ends", "µs", pairs),
        Row("its median delay", "ms", delays),
    ]


def byte_through_socket(count: int) -> tuple[float, float]:
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        for _ in range(count):
            time.sleep(1 / PACE)
            theirs.send(b"%d" % time.monotonic_ns())
        time.sleep(0.2)
        os._exit(0)
    before = used(os.getpid()) + used(pid)
    delays = []
    for _ in range(count):
        sent = ours.recv(64)
        delays.append(time.monotonic_ns() - int(sent))
    spent = used(os.getpid()) + used(pid) - before
    os.waitpid(pid, 0)
    ours.close()
    theirs.close()
    return spent.cpu / count * 1e6, quantile(delays, 0.5)


def child(loaded: RkllmEngine) -> int:
    return loaded.pid or 0


def both(loaded: RkllmEngine) -> Used:
    return used(os.getpid()) + used(child(loaded))


def main() -> None:
    show("the machine's own floor, at 20 a second", floor())
    show("from the callback to the iterator, as fast as it goes", asyncio.run(burst()))
    show("from the callback to the iterator, at 20 tokens a second", asyncio.run(paced()))
