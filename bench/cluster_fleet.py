"""Sixteen boards on sixteen hosts under one master, and clients that come and go for minutes.

python -m bench cluster_fleet        as root; CHURN=SECONDS for the clients (600)
"""

from __future__ import annotations

import asyncio
import os
import random
import time

from tests.exo_cluster.lab import Chat, Lab, chat, counted, ready, why_not

BOARDS, RATE = 16, 20
TOKENS = 400


async def fleet() -> None:
    async with Lab() as lab:
        exo = await lab.exo(None, "--campaign", "0.2")
        started = time.monotonic()
        boards = await asyncio.gather(
            *(lab.board(None, "--rate", str(RATE), "--name", f"board{number}") for number in range(BOARDS))
        )
        await ready(exo, BOARDS, timeout=60)
        print(f"{BOARDS} boards ready after {time.monotonic() - started:.1f} s")

        async def one(_: int) -> tuple[Chat, float]:
            begun = time.monotonic()
            answer = await chat(exo, f"count {TOKENS}", timeout=120)
            return answer, time.monotonic() - begun

        answers = await asyncio.gather(*(one(number) for number in range(BOARDS)))
        paces = sorted(TOKENS / took / RATE for _, took in answers)
        right = sum(answer.text == counted(TOKENS) for answer, _ in answers)
        resends = [(await board.view())["counters"]["resends"] for board in boards]
        print(f"{BOARDS} chats at {RATE} tokens/s: {right} right, pace {paces[0]:.1%} to {paces[-1]:.1%}")
        print(f"resends: {sum(resends)}")

        asked = [asyncio.create_task(one(number)) for number in range(BOARDS)]
        await asyncio.sleep(5)
        await boards[3].kill()
        print("board 3 killed in the middle of its answer")
        more = await asyncio.gather(*(chat(exo, "count 20", timeout=60) for _ in range(BOARDS)))
        elsewhere = sum(answer.text == counted(20) for answer in more)
        await asyncio.wait(asked, timeout=60)
        whole = sum(task.done() and task.result()[0].text == counted(TOKENS) for task in asked)
        print(f"of the {BOARDS} running answers {whole} ended whole; of {BOARDS} new ones {elsewhere} were answered")
        left = [task for task in asked if not task.done()]
        for task in left:
            task.cancel()
        started = time.monotonic()
        while len(await exo.runners()) > BOARDS - 1 and time.monotonic() - started < 60:  # noqa: ASYNC110 - exo is asked
            await asyncio.sleep(0.5)
        print(f"the dead board's instance is gone after {time.monotonic() - started:.0f} s more")
        again = await asyncio.gather(*(chat(exo, "count 20", timeout=60) for _ in range(BOARDS)))
        print(f"then {sum(answer.text == counted(20) for answer in again)} of {BOARDS} new ones are answered")


async def churn(seconds: float) -> None:
    """Four clients on two boards; three in ten leave at a random moment."""
    async with Lab() as lab:
        exo = await lab.exo(None, "--campaign", "0.2")
        boards = [await lab.board(None, "--rate", "100", "--name", f"board{number}") for number in range(2)]
        await ready(exo, 2)
        count = {"whole": 0, "left": 0, "wrong": 0}
        until = time.monotonic() + seconds

        async def client(seed: int) -> None:
            luck = random.Random(seed)
            while time.monotonic() < until:
                number = luck.randrange(1, 120)
                leaves_at = luck.randrange(number) if luck.random() < 0.3 else None

                def seen(so_far: Chat, leaves_at: int | None = leaves_at) -> bool | None:
                    return False if leaves_at is not None and len(so_far.times) > leaves_at else None

                answer = await chat(exo, f"count {number}", seen=seen, timeout=60)
                if answer.text == counted(number) and answer.done:
                    count["whole"] += 1
                elif leaves_at is not None and counted(number).startswith(answer.text):
                    count["left"] += 1
                else:
                    count["wrong"] += 1
                    print(f"WRONG: wanted {number} tokens, got {answer}")

        await asyncio.gather(*(client(seed) for seed in range(4)))
        await asyncio.sleep(2)
        desks = [await board.command("desk") for board in boards]
        views = [await board.view() for board in boards]
        waiting = [status for status in await exo.tasks() if status in ("Pending", "Running")]
        print(f"{seconds:.0f} s: {count}; tasks left pending or running: {len(waiting)}")
        print(f"answers still running on the boards: {[desk['running'] for desk in desks]}")
        print(
            f"chunks {sum(view['counters']['events_out'] for view in views)}, resends "
            f"{sum(view['counters']['resends'] for view in views)}, instances {len(await exo.runners())}"
        )
        for board in boards:
            cost = await board.command("cost")
            print(f"resident memory {cost['memory'] / 1024:.0f} MB")


async def tables() -> None:
    await fleet()
    await churn(float(os.environ.get("CHURN", "600")))


def main() -> None:
    if why_not():
        raise SystemExit(why_not())
    asyncio.run(tables())
