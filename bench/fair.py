"""What each of many clients gets of one model over HTTP, and how long each waits for its turn."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp

from bench.daemon import address, client, daemon
from bench.table import Row, show
from simulator.model_file import SimModel

CLIENTS = 32
ROUNDS = 20  # as many answers as these would make with equal shares
TIMES = 3
TOKENS = 20
PACE = 1000.0
WORDS = SimModel(reply="{user}", template="none", decode_tps=PACE)


@dataclass
class Heard:
    """What one crowd of clients saw."""

    tokens: Counter[int] = field(default_factory=Counter)
    waits: list[float] = field(default_factory=list)
    takes: list[float] = field(default_factory=list)
    mixed: int = 0
    seconds: float = 0.0
    answers: int = 0


async def talk(http: aiohttp.ClientSession, url: str, number: int, heard: Heard) -> None:
    """Asks again as soon as it was answered, until the crowd has had its answers."""
    turn = 0
    while heard.answers < CLIENTS * ROUNDS:
        turn += 1
        said = " ".join(["word"] * (TOKENS - 4) + [f"{number}", "turn", f"{turn}"])
        async with http.post(
            url,
            json={"model": "demo", "messages": [{"role": "user", "content": said}]},
            headers={"Authorization": f"Bearer {number}"},
        ) as response:
            answer: dict[str, Any] = await response.json()
        if heard.answers >= CLIENTS * ROUNDS:
            return
        heard.answers += 1
        usage = answer["usage"]
        heard.mixed += said not in answer["choices"][0]["message"]["content"]
        heard.tokens[number] += usage["completion_tokens"]
        if turn > 1:  # the first turns are those of a queue that fills
            heard.waits.append(usage["timings"]["queued_ms"])
        heard.takes.append(usage["timings"]["prefill_ms"] + usage["timings"]["decode_ms"])


async def crowd(address: str) -> Heard:
    heard = Heard()
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as http:
        url = f"http://{address}/v1/chat/completions"
        began = time.monotonic()
        await asyncio.gather(*(talk(http, url, number, heard) for number in range(CLIENTS)))
    heard.seconds = time.monotonic() - began
    return heard


def crowds() -> Iterator[Heard]:
    with TemporaryDirectory() as name:
        folder = Path(name)
        with daemon(folder, demo=WORDS, EXO_RKLLM_DISPATCH_QUEUE="64"):
            client(folder).post("/control/load", model="demo")
            served = address(folder)
            for _ in range(TIMES):
                yield asyncio.run(crowd(served))


def p99(values: list[float]) -> float:
    return statistics.quantiles(values, n=100)[98]


def main() -> None:
    heard = list(crowds())
    shares = [(max(one.tokens.values()) / min(one.tokens.values()) - 1) * 100 for one in heard]
    waits = [p99(one.waits) for one in heard]
    beats = [one.seconds * 1e3 / one.answers for one in heard]
    # Everybody else is answered once in between.
    computed = [(CLIENTS - 1) * beat for beat in beats]
    show(
        f"{CLIENTS} clients, one model, over HTTP",
        [
            Row("largest share of tokens over the smallest", "%", shares, "10"),
            Row("answers with another client's words", "", [float(one.mixed) for one in heard], "0"),
            Row("an answer on the NPU", "ms", [statistics.mean(one.takes) for one in heard]),
            Row("from one answer to the next", "ms", beats),
            Row("wait in the queue, 99th percentile", "ms", waits),
            Row(f"  computed: {CLIENTS - 1} times that", "ms", computed),
            Row("  measured over computed", "times", [one / other for one, other in zip(waits, computed, strict=True)]),
        ],
    )
