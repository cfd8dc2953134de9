"""A turn behaves to a task as a future does: it goes on once, hears of its cancellation, and keeps its context."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import ContextVar

import pytest

from exo_rkllm.runner.waiter import InlineWaiter

PLACE: ContextVar[str] = ContextVar("PLACE", default="nowhere")


async def waits(turn: InlineWaiter, heard: list[str], times: int = 1) -> None:
    for _ in range(times):
        await turn
        heard.append(PLACE.get())


async def test_now_runs_the_task_inside_the_caller() -> None:
    turn, heard = InlineWaiter(asyncio.get_running_loop()), list[str]()
    PLACE.set("the task's own")
    task = asyncio.create_task(waits(turn, heard, 2))
    await asyncio.sleep(0)
    seen: list[int] = []

    def reader() -> None:
        PLACE.set("the reader's")
        turn.now()
        seen.append(len(heard))
        turn.now()
        seen.append(len(heard))

    asyncio.get_running_loop().call_soon(reader)
    await task
    assert seen == [1, 2] and heard == ["the task's own"] * 2


async def test_soon_runs_it_later_and_once() -> None:
    turn, heard = InlineWaiter(asyncio.get_running_loop()), list[str]()
    task = asyncio.create_task(waits(turn, heard))
    await asyncio.sleep(0)
    turn.soon()
    turn.soon()
    turn.now()
    assert not heard
    await task
    assert len(heard) == 1


async def test_nobody_waits_and_nothing_happens() -> None:
    turn = InlineWaiter(asyncio.get_running_loop())
    turn.now()
    turn.soon()
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(waits(turn, []), 0.01)


@pytest.mark.parametrize("before", [lambda turn: None, InlineWaiter.soon], ids=["waiting", "about to go on"])
async def test_a_task_that_waits_can_be_cancelled(before: Callable[[InlineWaiter], None]) -> None:
    turn, heard = InlineWaiter(asyncio.get_running_loop()), list[str]()
    task = asyncio.create_task(waits(turn, heard))
    await asyncio.sleep(0)
    before(turn)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not heard
    again = asyncio.create_task(waits(turn, heard))
    await asyncio.sleep(0)
    turn.soon()
    await again
    assert len(heard) == 1


async def test_a_turn_belongs_to_its_loop() -> None:
    other = asyncio.new_event_loop()
    try:
        with pytest.raises(RuntimeError, match="different loop"):
            await asyncio.create_task(waits(InlineWaiter(other), []))
    finally:
        other.close()
