"""The exo node beside the strict stand-in of exo, each in a network namespace: joining, latency, throughput, rest.

python -m bench cluster        as root; with EXO_PYTHON beside exo itself (tests/exo_cluster/real.py)
"""

from __future__ import annotations

import asyncio
import statistics
import time

from tests.exo_cluster.lab import Lab, chat, counted, ready, why_not


def table(title: str, rows: list[tuple[str, str]]) -> None:
    width = max(len(name) for name, _ in rows)
    print(f"\n{title}\n" + "\n".join(f"  {name:<{width}}  {value}" for name, value in rows), flush=True)


async def joining() -> None:
    """From the start of the process to a ready instance in the cluster's state; the model is loaded already."""
    rows = []
    async with Lab() as lab:
        exo = await lab.exo(None, "--campaign", "0.2")
        await asyncio.sleep(1)
        for namespace in ("auto", "0.3.70"):
            took = []
            for _ in range(5):
                host = lab.host()
                started = time.monotonic()
                board = await lab.board(host, "--namespace", namespace)
                up = time.monotonic() - started
                await ready(exo)
                took.append(time.monotonic() - started)
                await board.stop()
            shown = ", ".join(f"{value:.2f}" for value in took)
            rows.append((f"namespace {namespace}", f"{shown} s (process up after {up:.2f} s)"))
    table("ready after the start of the process", rows)


async def latency() -> None:
    async with Lab() as lab:
        exo = await lab.exo(None, "--campaign", "0.2")
        board = await lab.board(None, "--rate", "50")
        await ready(exo)
        firsts = []
        for _ in range(30):
            answer = await chat(exo, "count 1")
            firsts.append(answer.times[0] * 1000 - 20)  # the desk makes its first token wait for 20 ms
        own = sorted(await board.command("own"))
        before = (await board.view())["counters"]["echoes"]
        await chat(exo, "count 300")
        after = (await board.view())["counters"]["echoes"]
        echo = (after["seconds"] - before["seconds"]) / (after["count"] - before["count"]) * 1000
        firsts.sort()
        table(
            "latency over the engine's own, through exo's API to an HTTP client",
            [
                ("first chunk, median", f"{statistics.median(firsts):.1f} ms"),
                ("first chunk, 95 %", f"{firsts[int(len(firsts) * 0.95)]:.1f} ms"),
                (
                    "of that ours, from the task's arrival to the chunk on its way, median",
                    f"{statistics.median(own):.2f} ms",
                ),
                ("of that ours, 95 %", f"{own[int(len(own) * 0.95)]:.2f} ms"),
                ("event to its echo in the log, mean (two ways)", f"{echo:.2f} ms"),
                ("one way", f"{echo / 2:.2f} ms"),
            ],
        )


async def throughput() -> None:
    rows = []
    async with Lab() as lab:
        exo = await lab.exo(None, "--campaign", "0.2")
        for rate, seconds in ((20, 10), (100, 10), (1000, 60), (0, 10)):
            board = await lab.board(None, "--rate", str(rate))
            await ready(exo)
            number = rate * seconds or 20_000
            started = time.monotonic()
            answer = await chat(exo, f"count {number}", timeout=seconds * 3 + 30)
            took = time.monotonic() - started
            counters = (await board.view())["counters"]
            right = "all right" if answer.text == counted(number) else f"WRONG: {len(answer.text.split())} tokens"
            rows.append(
                (
                    f"{rate or 'as fast as possible'} tokens/s",
                    (
                        f"{number / took:7.0f} tokens/s, {len(answer.times)} chunks, {counters['resends']} resends, "
                        f"echo at most {counters['echoes']['longest'] * 1000:.0f} ms, {right}"
                    ),
                )
            )
            await board.stop()
    table("one stream", rows)


async def idle() -> None:
    async with Lab() as lab:
        exo = await lab.exo(None, "--campaign", "0.2")
        board = await lab.board()
        await ready(exo)
        await asyncio.sleep(8)
        before, was = await board.command("cost"), (await board.view())["counters"]
        await asyncio.sleep(60)
        after, now = await board.command("cost"), (await board.view())["counters"]
        seconds = after["at"] - before["at"]
        table(
            "a joined node at rest",
            [
                ("processor", f"{(after['cpu'] - before['cpu']) / seconds * 100:.2f} % of a core"),
                ("messages sent", f"{now['events_out'] - was['events_out']} in {seconds:.0f} s"),
                ("events heard", f"{now['events_in'] - was['events_in']}"),
                ("resident memory", f"{after['memory'] / 1024:.0f} MB with the interpreter and zenoh"),
            ],
        )


async def tables() -> None:
    await joining()
    await latency()
    await throughput()
    await idle()


def main() -> None:
    if why_not():
        raise SystemExit(why_not())
    asyncio.run(tables())
