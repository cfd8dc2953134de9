"""Prompt tokens over HTTP are the runtime's own count, on every generation; a guess is called one, and never a fact."""

from __future__ import annotations

import json
import os
import re
import signal
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.running import Daemon, House
from tests.simulated import VERSIONS, Library

PREFILL = re.compile(r"I rkllm:\s+Prefill\s+[\d.]+\s+(\d+)")
QUESTION = "one two three four five six seven eight nine ten"
GUESS = "prompt_tokens_estimated"


def post(daemon: Daemon, path: str, **body: Any) -> dict[str, Any]:
    request = urllib.request.Request(
        f"http://{daemon.status()['listening'][0]}{path}", json.dumps({"model": "qwen", **body}).encode()
    )
    with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310 - our own daemon
        said: dict[str, Any] = json.load(response)
    return said


def messages(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(texts)]


@pytest.mark.parametrize("version", [version for version in VERSIONS if version != "1.1.4"])
def test_the_fifth_turn_prefills_only_the_new_tokens(
    board_house: House, make_model: Callable[..., Path], library: Library, version: str
) -> None:
    """1.1.x keeps nothing between two runs. The proof is what the runtime itself printed."""
    board_house.simulated("qwen", make_model, reply="and so on and on", template="none")
    daemon = board_house.start(EXO_RKLLM_RUNTIME_LIBRARY=str(library(version)), EXO_RKLLM_RUNTIME_LOG_LEVEL="1")
    said, told = [QUESTION], []
    for _ in range(5):
        answer = post(daemon, "/v1/chat/completions", messages=messages(*said))
        usage = answer["usage"]
        told.append((usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"]))
        said += [answer["choices"][0]["message"]["content"], "go on"]
    printed = [int(tokens) for tokens in PREFILL.findall(daemon.text)]
    assert [prompt - cached for prompt, cached in told] == printed
    assert len(set(printed[1:])) == 1, "each turn adds as many words, so each computes as many tokens"
    assert told[4][0] > 3 * printed[4]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_runtime_and_every_api_counts_the_same_prompt_alike(
    board_house: House, make_model: Callable[..., Path], library: Library, version: str
) -> None:
    board_house.simulated("qwen", make_model, reply="Hello there", template="none")
    daemon = board_house.start(EXO_RKLLM_RUNTIME_LIBRARY=str(library(version)))
    counts = []
    for _ in range(2):
        usage = post(daemon, "/v1/chat/completions", messages=messages(QUESTION))["usage"]
        counts.append(usage["prompt_tokens"])
        assert GUESS not in usage
        said = post(daemon, "/api/chat", messages=messages(QUESTION), stream=False)
        counts.append(said["prompt_eval_count"])
        usage = post(daemon, "/v1/messages", messages=messages(QUESTION), max_tokens=40)["usage"]
        counts.append(usage["input_tokens"] + usage["cache_read_input_tokens"])
        counts.append(post(daemon, "/v1/responses", input=QUESTION)["usage"]["input_tokens"])
    assert len(set(counts)) == 1, counts
    assert counts[0] >= len(QUESTION.split())
    assert " rkllm: " not in daemon.text, "the runtime's lines are for whoever wants them"


def test_uncounted_prompt_is_reported_as_an_estimate(
    board_house: House, make_model: Callable[..., Path], library: Library
) -> None:
    board_house.simulated("qwen", make_model, reply="Hello there", template="none")
    daemon = board_house.start(EXO_RKLLM_RUNTIME_LIBRARY=str(library("1.2.0")), RKLLM_SIM_NO_TIMINGS="1")
    for path, body in (
        ("/v1/chat/completions", {"messages": messages(QUESTION)}),
        ("/v1/completions", {"prompt": QUESTION}),
    ):
        usage = post(daemon, path, **body)["usage"]
        assert usage[GUESS] is True
        assert usage["prompt_tokens"] >= len(QUESTION) // 4
        assert "prompt_tokens_details" not in usage, "what the cache saved is not known either"
    usage = post(daemon, "/v1/messages", messages=messages(QUESTION), max_tokens=40)["usage"]
    assert usage[GUESS] is True and usage["input_tokens"] > 0 and usage["cache_read_input_tokens"] is None
    assert post(daemon, "/v1/responses", input=QUESTION)["usage"][GUESS] is True
    said = post(daemon, "/api/chat", messages=messages(QUESTION), stream=False)
    assert "prompt_eval_count" not in said and said["eval_count"] > 0
    with urllib.request.urlopen(f"http://{daemon.status()['listening'][0]}/metrics", timeout=10) as response:
        assert 'rkllm_prompt_tokens_total{model="qwen"} 0.0' in response.read().decode()
    assert re.search(r"qwen: stop, about \d+ tokens in and \d+ out", daemon.text)


def metrics(daemon: Daemon) -> str:
    with urllib.request.urlopen(f"http://{daemon.status()['listening'][0]}/metrics", timeout=10) as response:
        text: str = response.read().decode()
    return text


def test_killed_process_counts_as_a_crash(board_house: House, make_model: Callable[..., Path]) -> None:
    """`runner_lost` was counted, a reason that no alert and no dashboard knew."""
    board_house.simulated("qwen", make_model, reply="Hello", template="none")
    daemon = board_house.start()
    assert daemon.answer("qwen", "Hi") == "Hello"
    assert 'rkllm_worker_restarts_total{model="qwen",reason="crash"} 0.0' in metrics(daemon)
    os.kill(daemon.model_processes()[0], signal.SIGSEGV)
    daemon.wait_for(lambda status: status["models"][0]["state"] != "ready")
    assert daemon.answer("qwen", "Hi") == "Hello"
    counted = re.findall(r"rkllm_worker_restarts_total\{.*", metrics(daemon))
    assert 'rkllm_worker_restarts_total{model="qwen",reason="crash"} 1.0' in counted
    assert [line for line in counted if not line.endswith(" 0.0")] == counted[:1]
