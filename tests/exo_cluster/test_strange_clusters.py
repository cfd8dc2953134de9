"""Clusters that are not what we speak, noise, a twin: named, survived, and nothing said that was not asked for."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys

import pytest

from tests.exo_cluster.lab import Board, Exo, Lab, answered, chat, counted, ready, until, within

FLOOD = """
import os, random, socket, sys, time
udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
scope = socket.if_nametoindex("eth0")
end = time.monotonic() + 4
while time.monotonic() < end:
    for _ in range(200):
        kind = random.randrange(4)
        data = os.urandom(random.randrange(64))
        if kind == 1: data = b"EXO" + bytes([random.randrange(3)]) + data
        if kind == 2: data = b"EXO\\x01" + os.urandom(26)
        if kind == 3: data = b"EXO\\x00" + os.urandom(16)
        udp.sendto(data, ("ff12::e0a1:de89", 52413, 0, scope))
    time.sleep(0.01)
"""


async def phase(board: Board, wanted: str) -> bool:
    return bool((await board.view())["phase"] == wanted)


async def knows(exo: Exo, board: Board) -> bool:
    return (await board.view())["node_id"] in (await exo.state())["lastSeen"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (("--add", "ModelCard.region str"), "ModelCard: region is new"),
        (("--add", "NodeGatheredInfo.region str"), "unknown field 'region'"),
        (("--drop", "ModelCard.uses_cfg"), "ModelCard: usesCfg is missing"),
    ],
)
async def test_another_revision_is_watched_in_silence(lab: Lab, change: tuple[str, str], named: str) -> None:
    exo = await lab.exo(None, "--campaign", "0.2", *change)
    board = await lab.board()
    await until(lambda: phase(board, "passive"), 5)
    view = await board.view()
    assert any(named in one for one in view["drift"])
    assert named in view["sentence"]
    assert view["counters"]["events_out"] == view["counters"]["commands_out"] == 0
    assert not await knows(exo, board)
    assert exo.running
    assert any(named in line for line in board.said)


async def test_another_namespace_is_named_and_left_alone(lab: Lab) -> None:
    exo = await lab.exo(None, "--campaign", "0.2", "--namespace", "0.3.71")
    board = await lab.board(None, "--namespace", "0.3.70")
    await asyncio.sleep(2.5)
    view = await board.view()
    assert view["phase"] == "searching"
    assert view["other_clusters"][0].startswith("0.3.71 at fe80::")
    assert "0.3.71" in view["sentence"]
    assert not await knows(exo, board)


async def test_of_two_clusters_none_is_joined_unasked(lab: Lab) -> None:
    await lab.exo(None, "--namespace", "0.3.70", "--campaign", "0.2")
    other = await lab.exo(None, "--namespace", "home", "--campaign", "0.2")
    board = await lab.board()
    await asyncio.sleep(2.5)
    view = await board.view()
    assert view["phase"] == "searching"
    assert "0.3.70" in view["sentence"]
    assert view["counters"]["events_out"] == 0
    named = await lab.board(None, "--namespace", "home")
    await ready(other)
    assert (await named.view())["namespace"] == "home"


async def test_an_exo_that_dies_of_our_first_message_is_left_alone_until_told(lab: Lab) -> None:
    exo = await lab.exo(None, "--campaign", "0.2", "--add", "DownloadCompleted.checksum str")
    board = await lab.board()
    await until(lambda: phase(board, "out"), 8)
    assert not exo.running
    sentence = (await board.view())["sentence"]
    assert "DownloadCompleted" in sentence

    again = await lab.exo(exo.host, "--campaign", "0.2")
    await asyncio.sleep(3)
    assert await phase(board, "out")
    assert not await knows(again, board)
    await board.kill()
    restarted = await lab.board(board.host)
    await asyncio.sleep(3)
    assert (await restarted.view())["sentence"] == sentence, "a restart does not forget it"
    assert not await knows(again, restarted)
    await restarted.command("join")
    await ready(again)


async def test_a_flood_of_garbage_is_survived(lab: Lab) -> None:
    exo = await lab.exo(None, "--campaign", "0.2")
    board = await lab.board(None, "--namespace", "0.3.70")
    await ready(exo)
    noisy = lab.host()
    flood = subprocess.Popen(within(noisy.namespace, sys.executable, "-c", FLOOD))
    try:
        before = await board.command("cost")
        await asyncio.sleep(1)
        assert (await chat(exo, "count 20")).text == counted(20)
        await asyncio.sleep(1)
        after = await board.command("cost")
    finally:
        flood.wait()
    assert (after["cpu"] - before["cpu"]) / (after["at"] - before["at"]) < 0.9
    assert after["memory"] - before["memory"] < 8192
    assert len((await board.view())["other_clusters"]) <= 16
    assert await answered(exo, 5) < 5


async def test_a_twin_with_our_id_is_named_and_one_of_us_stops(lab: Lab) -> None:
    exo = await lab.exo(None, "--campaign", "0.2")
    board = await lab.board()
    await ready(exo)
    shutil.copytree(lab.folder / f"board{board.host.number}", lab.folder / "copy")
    twin = await lab.board(None, folder="copy")
    assert (await twin.view())["node_id"] == (await board.view())["node_id"]

    async def noticed() -> bool:
        return await phase(board, "out") or await phase(twin, "out")

    await until(noticed, 15)
    both = [await board.view(), await twin.view()]
    assert any("uses our node id" in view["sentence"] for view in both)
    assert exo.running
