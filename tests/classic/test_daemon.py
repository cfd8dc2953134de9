"""A daemon on the board answers for the host, so that the NPU has one queue."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import numpy as np
import pytest

from exo_rkllm.engine import RKLLMInferenceEngine
from exo_rkllm.errors import ExoRkllmError
from tests.classic.node import ask, whole
from tests.daemon.conftest import house  # noqa: F401 - a fixture
from tests.daemon.running import House


@pytest.fixture
def asked(house: House, monkeypatch: pytest.MonkeyPatch) -> House:  # noqa: F811
    for name, value in house.environment.items():
        if name.startswith(("EXO_RKLLM", "XDG")):
            monkeypatch.setenv(name, value)
    return house


def engine_of(make_engine: Callable[[], RKLLMInferenceEngine]) -> RKLLMInferenceEngine:
    return make_engine()


@pytest.mark.seed("4.2", "reference layout with http client, metrics, README")
async def test_the_daemon_answers_and_hears_when_the_host_leaves(
    asked: House, make_engine: Callable[[], RKLLMInferenceEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXO_RKLLM_CLASSIC_IDLE", "0.2")
    asked.words(tokens_per_second=50)
    daemon = await asyncio.to_thread(asked.start)
    engine = make_engine()
    answer = await ask([engine], [whole("words-rkllm")], "one two three", "r1")
    assert len(answer.tokens) == 4, "three words and the end"
    assert answer.ended
    await ask([engine], [whole("words-rkllm")], "word " * 500, "r2", leave_after=2)
    await asyncio.to_thread(daemon.wait_for, lambda status: not status["models"][0]["running"])
    assert (await ask([engine], [whole("words-rkllm")], "again", "r3")).ended


async def test_the_daemons_refusal_is_the_hosts_error(
    asked: House, make_engine: Callable[[], RKLLMInferenceEngine]
) -> None:
    asked.add("broken", 'engine = "quantum"')
    await asyncio.to_thread(asked.start)
    with pytest.raises(ExoRkllmError, match="quantum"):
        await ask([make_engine()], [whole("broken-rkllm")], "x", "r1")


async def test_a_daemon_that_dies_ends_the_answer(
    asked: House, make_engine: Callable[[], RKLLMInferenceEngine], caplog: pytest.LogCaptureFixture
) -> None:
    asked.words(tokens_per_second=20)
    daemon = await asyncio.to_thread(asked.start)
    engine, shard = make_engine(), whole("words-rkllm")
    token, _ = await engine.infer_prompt("r1", shard, "word " * 300, {})
    await asyncio.to_thread(daemon.kill)
    while token.item() != -1:
        token, _ = await engine.infer_tensor("r1", shard, np.asarray(token), {})
    assert "breaks off" in caplog.text or "has ended" in caplog.text
