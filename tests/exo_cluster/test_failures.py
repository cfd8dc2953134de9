"""Masters that die, links that are cut, boards that are killed: what clients and the cluster's state see of it."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.exo_cluster import real
from tests.exo_cluster.lab import Board, Chat, Exo, Lab, answered, chat, counted, fetch, ready, sees_both, until

BOTH = pytest.mark.parametrize("lab", ["zenoh", "libp2p"], indirect=True)

# Times of the reference (section 6), and the second that this node may take longer.
SLACK = 1.0


async def pair(lab: Lab) -> tuple[Exo, Exo]:
    """Two exo nodes; the first one is master."""
    first = await lab.exo(None, "--name", "first", "--force-master")
    link = f"tcp/{first.host.address}:52414"
    second = await lab.exo(None, "--name", "second", "--connect", link)
    await until(lambda: sees_both(second), 10)
    return first, second


def fits(answer: Chat) -> bool:
    """No token wrong, missing in between or doubled."""
    return counted(5000).startswith(answer.text)


async def begun(exo: Exo, words: str, timeout: float = 60.0) -> asyncio.Task[Chat]:
    """An answer of which the first tokens have arrived."""
    heard = asyncio.Event()

    def seen(so_far: Chat) -> None:
        if len(so_far.times) >= 5:
            heard.set()

    stream = asyncio.create_task(chat(exo, words, seen=seen, timeout=timeout))
    await asyncio.wait_for(heard.wait(), 15)
    return stream


async def orphans(exo: Exo, board: str) -> list[str]:
    """Instances of the board beyond one for its model."""
    return [key for key in await exo.runners() if key.startswith(board)][1:]


@BOTH
async def test_the_master_dies_in_the_middle_of_an_answer(lab: Lab) -> None:
    first, second = await pair(lab)
    board = await lab.board(None, "--rate", "30")
    await ready(second)
    stream = await begun(second, "count 300", timeout=8)
    await first.kill()
    took = await answered(second, 40)
    assert took < 5.1 + SLACK
    assert fits(await stream)
    assert await orphans(second, (await board.view())["node_id"]) == []
    assert (await board.view())["master"] == "second"


@BOTH
async def test_our_node_is_killed_and_comes_back(lab: Lab) -> None:
    exo = await lab.exo(None, "--campaign", "0.2")
    board = await lab.board(None, "--rate", "30")
    await ready(exo)
    stream = await begun(exo, "count 300")
    await board.kill()
    started = time.monotonic()
    again = await lab.board(board.host)
    broken = await stream
    assert "restarted" in broken.error
    assert fits(broken)
    assert time.monotonic() - started < 4.0
    assert (await chat(exo, "count 3")).text == counted(3)
    assert await orphans(exo, (await again.view())["node_id"]) == []
    assert await exo.tasks() == []


async def test_exo_restarts_alone(lab: Lab) -> None:
    exo = await lab.exo(None, "--campaign", "0.2")
    board = await lab.board()
    await ready(exo)
    await exo.kill()
    again = await lab.exo(exo.host)
    assert await answered(again, 15) < 5.4 + SLACK
    assert (await board.view())["phase"] == "serving"


async def test_a_cluster_that_has_no_worker_but_us(lab: Lab) -> None:
    """Nobody there says anything, until our token makes them elect."""
    exo = await lab.exo(None, "--no-worker")
    await asyncio.sleep(3.5)
    await lab.board()
    await ready(exo, timeout=12)
    assert (await chat(exo, "count 3")).text == counted(3)


async def test_a_user_deletes_our_instance_and_wants_it_back(lab: Lab) -> None:
    exo = await lab.exo(None, "--campaign", "0.2")
    board = await lab.board(None, "--rate", "30")
    await ready(exo)
    (instance,) = (await exo.state())["instances"]
    stream = await begun(exo, "count 300")
    await fetch(exo.host, exo.host.address, "DELETE", f"/instance/{instance}")
    cut = await stream
    assert fits(cut)
    assert not cut.done  # exo just ends the stream
    await until(lambda: idle(board), 1)
    await asyncio.sleep(1.0)
    assert await exo.runners() == {}, "what a user deletes is not put back"
    await board.command("join")
    await ready(exo)
    assert (await chat(exo, "count 3")).text == counted(3)


async def idle(board: Board) -> bool:
    return bool((await board.command("desk"))["running"] == 0)


async def cut_for(lab: Lab, seconds: float) -> tuple[Chat, Exo, Board, float]:
    """Our cable is out for a while in the middle of an answer; returns how long the next answer took after it."""
    exo = await lab.exo(None, "--campaign", "0.2")
    board = await lab.board(None, "--rate", "30")
    await ready(exo)
    stream = await begun(exo, f"count {(30 * 3)}", timeout=seconds + 20)
    board.host.unplug()
    await asyncio.sleep(seconds)
    board.host.plug()
    took = await answered(exo, 25)
    return await stream, exo, board, took


@pytest.mark.parametrize("lab", ["zenoh", pytest.param("libp2p", marks=pytest.mark.long)], indirect=True)
async def test_our_link_is_cut_for_six_seconds(lab: Lab) -> None:
    answer, exo, board, _ = await cut_for(lab, 6)
    assert (answer.text, answer.done) == (counted(90), True)
    assert await orphans(exo, (await board.view())["node_id"]) == []


@BOTH
@pytest.mark.long
async def test_our_link_is_cut_for_fifteen_seconds(lab: Lab) -> None:
    answer, exo, board, took = await cut_for(lab, 15)
    assert took < 9 + SLACK
    assert (answer.text, answer.done) == (counted(90), True)
    assert await orphans(exo, (await board.view())["node_id"]) == []


@BOTH
@pytest.mark.long
async def test_our_link_is_cut_until_we_are_forgotten(lab: Lab) -> None:
    answer, exo, board, took = await cut_for(lab, 45)
    assert fits(answer)
    assert took < 4.9 + SLACK
    assert await orphans(exo, (await board.view())["node_id"]) == []


async def nothing_runs(exo: Exo) -> bool:
    """In an instance that is still there: exo keeps the tasks of others as they were."""
    state = await exo.state()
    tasks = [body for task in state["tasks"].values() for body in task.values()]
    return not [one for one in tasks if one["taskStatus"] == "Running" and one["instanceId"] in state["instances"]]


@BOTH
@pytest.mark.long
async def test_the_masters_cable_is_pulled_and_put_back(lab: Lab) -> None:
    """The others elect; when the partition heals, the older master wins, and one instance of ours is left."""
    first, second = await pair(lab)
    board = await lab.board(None, "--rate", "30")
    await ready(second)
    stream = await begun(second, "count 300", timeout=8)
    first.host.unplug()
    took = await answered(second, 40)
    assert took < 24 + SLACK
    assert fits(await stream)
    first.host.plug()
    await asyncio.sleep(8)
    await answered(first, 30)
    if not real.PYTHON:  # exo's own second node does not always find back into the old session (docs/joining-exo.md)
        await answered(second, 20)
    assert await orphans(first, (await board.view())["node_id"]) == []
    await until(lambda: nothing_runs(first), 10)
    assert len((await first.state())["instances"]) == 1
    assert lab.released or "Running" not in await first.tasks()
