"""Sampling settings that a model's engine does not take are ignored and told, or refused where the owner wants that."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from exo_rkllm.api.context import ApiServerSettings
from exo_rkllm.config import ApiSettings
from exo_rkllm.sampling import Sampling
from tests.api.test_serving import ask, post
from tests.api.world import World, world

HI = [{"role": "user", "content": "hi"}]
# Seed and min_p are what the scripted engine does not take.
QUESTIONS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": HI, "seed": 1, "top_p": 0.5, "min_p": 0.1},
    "/v1/completions": {"prompt": "hi", "seed": 1, "top_p": 0.5, "min_p": 0.1},
    "/v1/responses": {"input": "hi", "seed": 1, "top_p": 0.5, "min_p": 0.1},
    "/v1/messages": {"messages": HI, "max_tokens": 9, "seed": 1, "top_p": 0.5, "min_p": 0.1},
    "/api/chat": {"messages": HI, "options": {"seed": 1, "top_p": 0.5, "min_p": 0.1}},
    "/api/generate": {"prompt": "hi", "options": {"seed": 1, "top_p": 0.5, "min_p": 0.1}},
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", QUESTIONS)
async def test_unsupported_sampling_is_ignored_and_listed(server: World, path: str, stream: bool) -> None:
    body = {"model": "qwen", "stream": stream, **QUESTIONS[path]}
    async with server.http.post(f"{server.url}{path}", json=body) as response:
        assert response.status == 200, await response.text()
        assert sorted(response.headers["X-Ignored-Fields"].split(", ")) == ["min_p", "seed"]
        await response.read()
    assert server.ledger.requests[-1].sampling == Sampling(top_p=0.5)


async def test_setting_without_effect_is_not_listed(server: World) -> None:
    _, _, headers = await post(server, "/v1/chat/completions", ask(min_p=0, top_p=0.5))
    assert "X-Ignored-Fields" not in headers


async def test_unknown_fields_are_listed_in_streams_and_inside_options(server: World) -> None:
    body = {"model": "qwen", "prompt": "hi", "session": 1, "options": {"tfs_z": 0.5, "penalize_newline": True}}
    async with server.http.post(f"{server.url}/api/generate", json=body) as response:
        assert response.headers["X-Ignored-Fields"] == "session, options.tfs_z, options.penalize_newline"


@pytest.mark.parametrize("path", QUESTIONS)
async def test_strict_daemon_refuses_unsupported_sampling(path: str) -> None:
    async with world(settings=ApiServerSettings(ApiSettings(strict=True))) as server:
        status, body, _ = await post(server, path, {"model": "qwen", **QUESTIONS[path]})
        assert status == 400
        assert "The request sets " in str(body["error"]) and "which engine scripted does not take" in str(body["error"])


async def test_ignored_settings_are_logged_once_a_minute(server: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "exo_rkllm.api")
    for _ in range(3):
        await post(server, "/v1/chat/completions", ask(seed=1))
    lines = [record.getMessage() for record in caplog.records if "does not take" in record.getMessage()]
    assert lines == ["A request for qwen sets seed, which engine scripted does not take: ignored."]
