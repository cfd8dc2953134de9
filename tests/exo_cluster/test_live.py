"""A board in the cluster of the strict stand-in, each on a host of its own."""

from __future__ import annotations

import asyncio
import base64
import time

import pytest

from tests.exo_cluster import real
from tests.exo_cluster.lab import MODEL, Chat, Lab, chat, counted, fetch, ready, until

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(600_000)).decode()


async def unpaused(exo: object) -> None:
    """exo's API holds requests back during its first election, the stand-in's for 0.2 s of campaign."""
    await asyncio.sleep(3.3 if real.PYTHON else 0.5)


@pytest.mark.parametrize(("lab", "namespace"), [("zenoh", "0.3.70"), ("libp2p", "libp2p/v0.0.1")], indirect=["lab"])
async def test_a_board_becomes_ready_and_answers_in_every_way(lab: Lab, namespace: str) -> None:
    exo = await lab.exo(None, "--name", "mac", "--campaign", "0.2")
    await unpaused(exo)
    started = time.monotonic()
    board = await lab.board()
    await ready(exo)
    # of which half a second is Python's own start; 1.0.71 is heard as soon, and asked for after the other
    assert time.monotonic() - started < (3.0 if lab.released else 2.0) + 0.5
    view = await board.view()
    assert (view["phase"], view["master"], view["namespace"]) == ("serving", "mac", namespace)

    plain = await chat(exo, "count 10 prefill")
    assert (plain.text, plain.finish, plain.done) == (counted(10), "stop", True)
    assert plain.comments >= 1
    assert plain.usage["prompt_tokens"] == 7
    assert plain.usage["completion_tokens"] == 10
    assert plain.stats["peak_memory_usage"] == {"in_bytes": 123_456_789}

    short = await chat(exo, "count 10", max_tokens=4)
    assert (short.text, short.finish) == (counted(4), "length")

    thought = await chat(exo, "count 6 think")
    assert (thought.thinking, thought.text) == ("t0 t1 t2 ", "t3 t4 t5 ")
    assert thought.usage["completion_tokens_details"]["reasoning_tokens"] == 3

    called = await chat(exo, "tool")
    assert called.finish == "tool_calls"
    assert called.calls == [{"id": "call-1", "name": "get_weather", "arguments": '{"city": "Oslo"}'}]

    failed = await chat(exo, "fail")
    assert failed.text.startswith("[opi5 did not answer] rkllm_run failed (simulated)")
    assert failed.done

    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
    question = [{"role": "user", "content": [{"type": "text", "text": "image"}, picture]}]
    for _ in range(2):  # the second time the picture is only named by its hash
        seen = await chat(exo, "", messages=question)
        assert seen.text == "image/png:600008"

    collected = await fetch(
        exo.host,
        exo.host.address,
        "POST",
        "/v1/chat/completions",
        {"model": MODEL, "messages": [{"role": "user", "content": "count 3"}]},
    )
    assert collected.json()["choices"][0]["message"]["content"] == counted(3)

    drawn = await fetch(exo.host, exo.host.address, "POST", "/v1/images/generations", {"model": MODEL, "prompt": "x"})
    assert drawn.status == 500
    assert "not with images" in drawn.json()["error"]["message"]
    assert set(await exo.tasks()) <= {"Failed"}  # exo forgets it with the client's connection, or a moment after

    assert await board.stop() == 0
    state = await exo.state()
    assert state["instances"] == state["runners"] == {}
    assert exo.running


async def test_parallel_requests_survive_clients_that_leave(lab: Lab) -> None:
    exo = await lab.exo(None, "--campaign", "0.2")
    board = await lab.board(None, "--rate", "200")
    await unpaused(exo)
    await ready(exo)
    answers = await asyncio.gather(*(chat(exo, f"count {10 + index}") for index in range(12)))
    assert [answer.text for answer in answers] == [counted(10 + index) for index in range(12)]

    def enough(so_far: Chat) -> bool | None:
        return False if len(so_far.times) == 5 else None

    gone = await chat(exo, "count 2000", seen=enough)
    assert counted(2000).startswith(gone.text)
    desk = await board.command("desk")
    await until(lambda: idle(board), 1.0)
    assert (await chat(exo, "count 3")).text == counted(3)
    assert desk["stopped"] <= 1
    assert "Cancelled" in await exo.tasks()


async def idle(board: object) -> bool:
    return bool((await board.command("desk"))["running"] == 0)  # type: ignore[attr-defined]
