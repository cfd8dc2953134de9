"""Many clients, crashes, memory and idle models, on the simulated vendor library behind a real daemon."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from exo_rkllm.client.control import Client
from exo_rkllm.errors import ExoRkllmError
from tests.daemon.running import House
from tests.simulated import Library

GB = 10**9
Make = Callable[..., Path]


def test_two_clients_are_answered_one_after_the_other(board_house: House, make_model: Make) -> None:
    board_house.simulated("qwen", make_model, reply="You said {user}", template="none", decode_tps=200)
    daemon = board_house.start()
    with ThreadPoolExecutor() as pool:
        answers = daemon.answers(pool, "qwen", ["red", "green", "blue"])
        assert [answer.result(20) for answer in answers] == ["You said red", "You said green", "You said blue"]
    lines = [line for line in daemon.text.splitlines() if "qwen: stop, " in line]
    assert len(lines) == 3


async def test_daemon_ignores_sampling_that_the_vendor_library_lacks(board_house: House, make_model: Make) -> None:
    """`min_p` was refused for every engine; librkllmrt has neither it nor a seed, and the answer says so."""
    board_house.simulated("qwen", make_model, reply="You said {user}", template="none", decode_tps=200)
    for strict in ("false", "true"):
        daemon = board_house.start(EXO_RKLLM_API_STRICT=strict)
        url = f"http://{daemon.status()['listening'][0]}/api/generate"
        body = {"model": "qwen", "prompt": "red", "stream": False, "options": {"seed": 7, "min_p": 0.05, "top_k": 3}}
        async with aiohttp.ClientSession() as http, http.post(url, json=body) as response:
            answer = await response.json()
        if strict == "false":
            assert answer["response"] == "You said red"
            assert sorted(response.headers["X-Ignored-Fields"].split(", ")) == ["min_p", "seed"]
            assert "which engine rkllm does not take: ignored." in daemon.text
        else:
            assert response.status == 400
            assert "which engine rkllm does not take" in answer["error"]
        daemon.stop()


CLIENTS, TURNS = 32, 12


async def test_32_clients_get_the_same_share_and_nobody_elses_words(
    board_house: House, make_model: Callable[..., Path]
) -> None:
    """Over HTTP, counted in tokens of the first 384 answers, so that a machine that is busy changes nothing."""
    board_house.simulated("qwen", make_model, reply="{user}", template="none", decode_tps=1500)
    board_house.simulated("endless", make_model, reply="on ", endless=True, decode_tps=50)
    daemon = board_house.start(EXO_RKLLM_DISPATCH_QUEUE=str(2 * CLIENTS))
    url = f"http://{daemon.status()['listening'][0]}/v1/chat/completions"
    daemon.client.post("/control/load", model="qwen")
    tokens: Counter[int] = Counter()
    order: list[int] = []

    async def talk(http: aiohttp.ClientSession, number: int) -> None:
        turn = 0
        while len(order) < CLIENTS * TURNS:
            said = f"client {number:02} says its word number {turn:02} of many"
            body = {"model": "qwen", "messages": [{"role": "user", "content": said}]}
            async with http.post(url, json=body, headers={"Authorization": f"Bearer {number}"}) as response:
                answer = await response.json()
            assert answer["choices"][0]["message"]["content"] == said
            turn += 1
            if len(order) < CLIENTS * TURNS:
                order.append(number)
                tokens[number] += answer["usage"]["completion_tokens"]

    occupied = daemon.ask("endless", "Hi")
    assert any("text" in event for event in occupied)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        talking = [asyncio.create_task(talk(http, number)) for number in range(CLIENTS)]
        waiting = lambda status: [m for m in status["models"] if len(m["waiting"]) == CLIENTS]  # noqa: E731
        await asyncio.to_thread(daemon.wait_for, waiting)
        occupied.close()  # type: ignore[attr-defined]  # a generator: the NPU is theirs now, all at once
        await asyncio.wait_for(asyncio.gather(*talking), 120)
    assert max(tokens.values()) <= 1.1 * min(tokens.values()), tokens
    assert sorted(order[:CLIENTS]) == list(range(CLIENTS)), "nobody has a second turn before everybody had a first"


def test_two_models_take_turns_on_the_npu(board_house: House, make_model: Make) -> None:
    for name in ("qwen", "gemma"):
        board_house.simulated(name, make_model, reply=f"{name} answers", decode_tps=100)
    daemon = board_house.start()
    for name in ("qwen", "gemma"):
        daemon.client.post("/control/load", model=name)
    most = 0
    with ThreadPoolExecutor() as pool:
        asked = [pool.submit(daemon.answer, name, "Hi") for name in ("qwen", "gemma") * 3]
        while not all(answer.done() for answer in asked):
            most = max(most, sum(len(model["running"]) for model in daemon.status()["models"]))
        assert sorted(answer.result() for answer in asked) == ["gemma answers"] * 3 + ["qwen answers"] * 3
    assert most == 1
    assert {model["name"]: model["domain"] for model in daemon.status()["models"]} == {"qwen": 1, "gemma": 2}


def test_client_that_leaves_frees_the_npu_and_never_starts_while_waiting(board_house: House, make_model: Make) -> None:
    board_house.simulated("qwen", make_model, reply="word " * 50, endless=True, decode_tps=50, abort_delay_ms=100)
    daemon = board_house.start()
    running = daemon.ask("qwen", "Hi")
    assert any("text" in event for event in running)
    waiting = daemon.ask("qwen", "Hi")
    assert next(waiting) == {"progress": {"stage": "queued", "done": 1, "total": 0}}
    waiting.close()  # type: ignore[attr-defined]  # a generator
    daemon.wait_for(lambda status: not status["models"][0]["waiting"])
    running.close()  # type: ignore[attr-defined]
    daemon.wait_for(lambda status: not status["models"][0]["running"])
    assert len(re.findall(r"qwen: abort, ", daemon.text)) == 2
    assert daemon.answer("qwen", "Hi", max_tokens=3).split() == ["word"] * 3


def test_a_crash_costs_one_answer(board_house: House, make_model: Make) -> None:
    board_house.simulated("qwen", make_model, reply="word " * 30, decode_tps=100)
    daemon = board_house.start()
    with ThreadPoolExecutor() as pool:
        doomed = pool.submit(daemon.answer, "qwen", "Hi")
        daemon.wait_for(lambda status: status["models"] and status["models"][0]["running"])
        waits = pool.submit(daemon.answer, "qwen", "Hi", max_tokens=2)
        daemon.wait_for(lambda status: status["models"][0]["waiting"])
        os.kill(daemon.model_processes()[0], signal.SIGSEGV)
        error = doomed.exception(20)
        assert isinstance(error, ExoRkllmError)
        assert (error.code, "SIGSEGV" in error.sentence) == ("runner_lost", True)
        assert waits.result(20).split() == ["word", "word"]
    assert daemon.process.poll() is None


def test_a_model_that_dies_while_it_loads_is_not_loaded_again_at_once(board_house: House, make_model: Make) -> None:
    board_house.simulated("qwen", make_model, faults=("segv@init",))
    daemon = board_house.start()
    for _ in range(2):
        with pytest.raises(ExoRkllmError, match="SIGSEGV"):
            daemon.answer("qwen", "Hi")
    retry = daemon.model("qwen")["retry_at"]
    assert 1.0 < retry - time.time() <= 2.0
    assert daemon.model("qwen")["error"].startswith("The process of qwen was killed by SIGSEGV")


def test_idle_model_is_unloaded(board_house: House, make_model: Make) -> None:
    board_house.simulated("qwen", make_model, reply="Hello", malloc_bytes=30_000_000)
    daemon = board_house.start()
    assert daemon.answer("qwen", "Hi", keep_alive=0.2) == "Hello"
    assert daemon.model("qwen")["memory"] > 30_000_000
    daemon.wait_for(lambda status: status["models"][0]["state"] == "cold")
    assert daemon.answer("qwen", "Hi", keep_alive=0) == "Hello"
    daemon.wait_for(lambda status: status["models"][0]["state"] == "cold")
    assert not daemon.model_processes()


def meminfo(house: House, available: int) -> None:
    path = Path(house.environment["EXO_RKLLM_BOARD_ROOT"]) / "proc/meminfo"
    text = re.sub(r"MemAvailable:.*", f"MemAvailable:   {available // 1024} kB", path.read_text())
    new = path.with_name("meminfo.new")
    new.write_text(text)
    new.replace(path)  # which nobody may write, as the kernel's, and which a reader never finds missing


def test_load_makes_room_or_names_the_missing_memory(board_house: House, make_model: Make) -> None:
    board_house.simulated("small", make_model, reply="small", memory=2 * GB)
    board_house.simulated("large", make_model, reply="large", memory=int(4.6 * GB))
    meminfo(board_house, int(3.4 * GB))
    daemon = board_house.start(EXO_RKLLM_MODELS_RESERVE_MEMORY="300MB")
    daemon.client.post("/control/load", model="small", pin=True)
    meminfo(board_house, int(3.4 * GB))
    with pytest.raises(ExoRkllmError) as caught:
        daemon.client.post("/control/load", model="large")
    assert caught.value.sentence == "large needs 4.6 GB of memory and 3.1 GB are free."
    assert caught.value.hint == "small is pinned; unloading it frees 2.0 GB: exo-rkllm unload small"
    assert daemon.client.post("/control/unload", model="small") == {"unloaded": True}
    daemon.client.post("/control/load", model="small")
    meminfo(board_house, int(3.4 * GB))
    with ThreadPoolExecutor() as pool:
        loading = pool.submit(daemon.client.post, "/control/load", model="large")
        daemon.wait_for(lambda status: [m["state"] for m in status["models"] if m["name"] == "small"] == ["cold"])
        loading.exception(20)  # the picture of a board gives no memory back by itself
    assert daemon.model("small")["state"] == "cold", "it was idle, so it made room"


def test_refused_load_answers_with_the_librarys_sentence(board_house: House, make_model: Make) -> None:
    board_house.simulated("wrong", make_model, platform="RK3576")
    daemon = board_house.start()
    with pytest.raises(ExoRkllmError) as caught:
        daemon.answer("wrong", "Hi")
    assert "RK3576" in str(caught.value)
    assert daemon.model("wrong")["error"] == caught.value.sentence


def test_figures_are_the_runtimes_own(board_house: House, make_model: Make) -> None:
    board_house.simulated("qwen", make_model, reply="one two three", load_seconds=0.3)
    daemon = board_house.start()
    events: list[dict[str, Any]] = list(daemon.ask("qwen", "Hi"))
    assert events[0] == {"progress": {"stage": "loading", "done": 0, "total": 0}}
    finish = events[-1]["finish"]
    assert finish["reason"] == "stop"
    assert finish["usage"]["completion"] >= 3
    assert finish["timings"]["load"] >= 0.3
    with closing(Client(board_house.socket)._connect()) as connection:
        connection.request("GET", "/control/version")
        assert connection.getresponse().status == 200


def test_log_level_of_the_runtime_brings_its_lines_into_the_log(board_house: House, make_model: Make) -> None:
    board_house.simulated("qwen", make_model, reply="Hello")
    quiet = board_house.start()
    quiet.answer("qwen", "Hi")
    assert " rkllm: " not in quiet.text
    quiet.stop()
    talkative = board_house.start(EXO_RKLLM_RUNTIME_LOG_LEVEL="1")
    talkative.answer("qwen", "Hi", keep_alive=0)
    talkative.wait_for(lambda status: status["models"][0]["state"] == "cold")
    assert "I rkllm: " in talkative.text


def test_sampling_that_the_runtime_takes_at_load_only_is_ignored_refused_or_loaded_as_configured(
    board_house: House, make_model: Callable[..., Path], library: Library
) -> None:
    board_house.simulated("qwen", make_model, reply="Hello")
    old = str(library("1.2.3"))
    daemon = board_house.start(EXO_RKLLM_RUNTIME_LIBRARY=old)
    assert daemon.answer("qwen", "Hi") == "Hello"
    assert daemon.answer("qwen", "Hi", sampling={"temperature": 0.3}) == "Hello", "which is ignored by default"
    daemon.stop()
    daemon = board_house.start(EXO_RKLLM_RUNTIME_LIBRARY=old, EXO_RKLLM_RUNTIME_SAMPLING="refuse")
    with pytest.raises(ExoRkllmError, match="temperature only when qwen is loaded"):
        daemon.answer("qwen", "Hi", sampling={"temperature": 0.3})
    daemon.stop()
    daemon = board_house.start(EXO_RKLLM_RUNTIME_LIBRARY=old, EXO_RKLLM_RUNTIME_SAMPLING="reload")
    seen = []
    for temperature in (None, 0.3, 0.3, None):
        fields = {} if temperature is None else {"sampling": {"temperature": temperature}}
        assert daemon.answer("qwen", "Hi", **fields) == "Hello"
        seen += daemon.model_processes()
    assert [seen.index(child) for child in seen] == [0, 1, 1, 3], (
        "a process each time that it changes, and one at a time"
    )
    assert [model["state"] for model in daemon.status()["models"]] == ["ready"]
    assert "crash" not in daemon.text


def test_next_answer_begins_without_the_daemon(board_house: House, make_model: Make) -> None:
    """The model's process has its run, so the NPU does not wait while a busy daemon hears of the end."""
    board_house.simulated("clock", make_model, template="none", clock=True, endless=True, decode_tps=100)
    daemon = board_house.start()
    daemon.answer("clock", "hi", max_tokens=1)
    with ThreadPoolExecutor() as pool:
        answers = [pool.submit(daemon.answer, "clock", name, max_tokens=50) for name in ("red", "green")]
        daemon.wait_for(lambda status: any(model["waiting"] for model in status["models"]))
        time.sleep(0.2)  # for its prompt
        daemon.signal(signal.SIGSTOP)
        time.sleep(0.6)
        stopped_until = time.monotonic_ns()
        daemon.signal(signal.SIGCONT)
        clocks = [int(clock) for answer in answers for clock in answer.result(20).split()]
    assert len(clocks) == 100
    assert min(clocks[50:]) < stopped_until, "it began while the daemon was stopped"
