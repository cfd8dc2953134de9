"""Corners of the languages that the clients' own tests do not reach."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from exo_rkllm.api.faults import NoSuchPlace
from exo_rkllm.api.responses import LARGEST, MOST_KEPT, ResponseStore, StoredResponse
from exo_rkllm.backends.base import Message
from tests.api.test_serving import ask, post
from tests.api.world import World, world
from tests.words import write_tokenizer

PIXEL = "data:image/png;base64,iVBORw0KGgo="
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}


async def lines(server: World, path: str, body: object) -> str:
    async with server.http.post(f"{server.url}{path}", json=body) as response:
        return await response.text()


# ── responses ────────────────────────────────────────────────────────────────────────────────────


async def test_items_of_one_turn_become_one_message(server: World) -> None:
    items = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "input_text", "text": "Weather?"}]},
        {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "must look"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Looking."}]},
        {"type": "function_call", "call_id": "c1", "name": "get_weather", "arguments": "{}"},
        {"type": "function_call", "call_id": "c2", "name": "get_weather", "arguments": '{"city": "Rome"}'},
        {"type": "function_call_output", "call_id": "c1", "output": "rain"},
        {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "sun"}]},
    ]
    tool = {"type": "function", **TOOL["function"]}  # type: ignore[dict-item]
    status, _, _ = await post(server, "/v1/responses", {"model": "qwen", "input": items, "tools": [tool]})
    assert status == 200
    prompt = server.ledger.requests[-1].prompt or ""
    places = [prompt.index(words) for words in ("Be brief.", "Weather?", "Looking.", "Rome", "rain", "sun")]
    assert places == sorted(places)


async def test_function_call_without_text_becomes_a_message(server: World) -> None:
    items = [
        {"type": "function_call", "call_id": "c1", "name": "get_weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "rain"},
        {"role": "user", "content": "And?"},
    ]
    assert (await post(server, "/v1/responses", {"model": "qwen", "input": items}))[0] == 200


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("parallel", [False, True])
async def test_calls_of_a_response_are_items(server: World, stream: bool, parallel: bool) -> None:
    tool = {"type": "function", **TOOL["function"]}  # type: ignore[dict-item]
    body = {
        "model": "thinker",
        "input": f"«<think>\nhm\n</think>\n\n{CALL}\n{CALL}»",
        "tools": [tool],
        "stream": stream,
    }
    text = await lines(server, "/v1/responses", {**body, "parallel_tool_calls": parallel})
    last = json.loads(text.strip().rpartition("data: ")[2])
    output = last["response"]["output"] if stream else last["output"]
    assert [item["type"] for item in output] == ["reasoning"] + ["function_call"] * (2 if parallel else 1)


async def test_response_holds_json_and_refuses_a_missing_tool(server: World) -> None:
    schema = {"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}}
    form = {"format": {"type": "json_schema", "name": "A", "schema": schema}}
    for stream in (False, True):
        body = {"model": "qwen", "input": '«```json\n{"a": 1}\n```»', "text": form, "stream": stream}
        assert '"text":"{\\"a\\": 1}"' in (await lines(server, "/v1/responses", body)).replace('"text": ', '"text":')
    form = {"format": {"type": "json_object"}}
    assert (await post(server, "/v1/responses", {"model": "qwen", "input": "«[]»", "text": form}))[0] == 422
    named = {"type": "function", "name": "get_weather"}
    status, said, _ = await post(server, "/v1/responses", {"model": "qwen", "input": "x", "tool_choice": named})
    assert status == 400 and "tools are missing" in said["error"]["message"]


async def test_a_response_that_is_cut_says_why(server: World) -> None:
    _, said, _ = await post(server, "/v1/responses", {"model": "qwen", "input": "abcdefghi", "max_output_tokens": 1})
    assert said["status"] == "incomplete" and said["incomplete_details"] == {"reason": "max_output_tokens"}
    text = await lines(
        server, "/v1/responses", {"model": "qwen", "input": "abcdefghi", "max_output_tokens": 1, "stream": True}
    )
    assert "event: response.incomplete" in text


async def test_client_cannot_continue_anothers_conversation(server: World) -> None:
    _, said, _ = await post(server, "/v1/responses", {"model": "qwen", "input": "secret"}, Authorization="Bearer ada")
    follow = {"model": "qwen", "input": "?", "previous_response_id": said["id"]}
    assert (await post(server, "/v1/responses", follow, Authorization="Bearer eve"))[0] == 404
    assert (await post(server, "/v1/responses", follow, Authorization="Bearer ada"))[0] == 200
    _, unkept, _ = await post(server, "/v1/responses", {"model": "qwen", "input": "x", "store": False})
    assert (await post(server, "/v1/responses", {**follow, "previous_response_id": unkept["id"]}))[0] == 404


def test_conversations_are_bounded_by_number_and_by_size() -> None:
    kept = ResponseStore()
    for number in range(MOST_KEPT + 10):
        kept.keep(str(number), StoredResponse("me", (Message("user", "x"),), {}))
    with pytest.raises(NoSuchPlace):
        kept.get("9", "me")
    assert kept.get("10", "me")
    kept.keep("big", StoredResponse("me", (Message("user", "x" * LARGEST),), {}))
    with pytest.raises(NoSuchPlace):
        kept.get("10", "me")
    kept.forget("big", "me")
    with pytest.raises(NoSuchPlace):
        kept.forget("big", "me")


# ── OpenAI ───────────────────────────────────────────────────────────────────────────────────────


async def test_thinking_is_switched_under_every_name(server: World) -> None:
    for switch, thinks in (
        ({"reasoning_effort": "none"}, False),
        ({"chat_template_kwargs": {"enable_thinking": False}}, False),
        ({"reasoning_effort": "low"}, True),
        ({"chat_template_kwargs": {"enable_thinking": True}, "reasoning_effort": "none"}, True),
    ):
        await post(server, "/v1/chat/completions", ask("x", "thinker", **switch))
        assert server.ledger.requests[-1].thinking is thinks


@pytest.mark.parametrize("parallel", [False, True])
async def test_stream_holds_parallel_calls_unless_forbidden(server: World, parallel: bool) -> None:
    body = ask(f"«{CALL}\n{CALL}»", tools=[TOOL], parallel_tool_calls=parallel, stream=True)
    text = await lines(server, "/v1/chat/completions", body)
    assert text.count('"name":"get_weather"') == (2 if parallel else 1)
    assert '"finish_reason":"tool_calls"' in text


@pytest.mark.parametrize(
    ("path", "more", "says"),
    [
        (
            "/v1/chat/completions",
            {"tool_choice": TOOL, "messages": [{"role": "user", "content": "x"}]},
            "tools are missing",
        ),
        ("/v1/completions", {"prompt": [1, 2], "echo": True}, "echo wants a prompt that is text"),
        ("/v1/embeddings", {"input": ["a", ""]}, "must be a string that is not empty"),
        ("/api/embed", {"input": ["a", ""]}, "holds an empty text"),
        ("/api/generate", {"prompt": "x", "raw": True, "system": "y"}, "raw goes with a prompt alone"),
        ("/api/show", {}, "model is missing"),
        ("/v1/responses", {"input": [{"type": "reasoning"}]}, "holds no message"),
    ],
)
async def test_senseless_combinations_are_refused(server: World, path: str, more: dict[str, Any], says: str) -> None:
    status, said, _ = await post(server, path, {"model": "qwen", **more} if path != "/api/show" else more)
    assert status == 400 and says in json.dumps(said)


async def test_token_ids_are_a_prompt(server: World) -> None:
    await post(server, "/v1/completions", {"model": "qwen", "prompt": [[1, 2], [3]]})
    assert [request.tokens for request in server.ledger.requests] == [(1, 2), (3,)]
    _, said, _ = await post(server, "/v1/embeddings", {"model": "qwen", "input": [1, 2, 3]})
    assert said["usage"]["prompt_tokens"] == 3
    assert (await post(server, "/v1/embeddings", {"model": "dummy", "input": "x"}))[0] == 400


async def test_a_completion_that_breaks_in_mid_stream_says_so(server: World) -> None:
    body = {
        "model": "qwen",
        "prompt": "!break in the middle of it",
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    text = await lines(server, "/v1/completions", body)
    assert "gave up" in text and "[DONE]" not in text
    text = await lines(server, "/api/generate", {"model": "qwen", "prompt": "!break in the middle of it"})
    assert json.loads(text.splitlines()[-1]) == {"error": "The runtime gave up. Ask again."}


async def test_a_run_that_somebody_ends_is_an_error(server: World) -> None:
    running = asyncio.create_task(post(server, "/v1/chat/completions", ask("x" * 300, "slow")))
    streaming = asyncio.create_task(lines(server, "/v1/chat/completions", ask("y" * 300, "slow", stream=True)))
    for count in (1, 2):
        while len(server.ledger.requests) < count:  # noqa: ASYNC110 - the first prompt starts the helper process
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.2)
        engine = server.dispatcher._engine("slow")
        assert engine is not None
        await engine.abort(server.ledger.requests[-1].id)
    assert (await running)[0] == 500
    assert "ended from outside" in await streaming


# ── Anthropic ────────────────────────────────────────────────────────────────────────────────────


async def test_message_takes_blocks_of_every_kind(server: World) -> None:
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}}
    body = {
        "model": "seer",
        "max_tokens": 9,
        "system": [
            {"type": "text", "text": "Be", "cache_control": {"type": "ephemeral"}},
            {"type": "text", "text": "brief."},
        ],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "What?"}, image]},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "hm", "signature": ""},
                    {"type": "redacted_thinking", "data": "x"},
                    {"type": "text", "text": "A dot."},
                ],
            },
            {"role": "user", "content": "Sure?"},
        ],
        "metadata": {"user_id": "me"},
    }
    assert (await post(server, "/v1/messages", body))[0] == 200
    prompt = server.ledger.requests[-1].prompt or ""
    assert "Be\n\nbrief." in prompt and "<image>" in prompt and "A dot." in prompt
    result = {"type": "tool_result", "tool_use_id": "t", "content": [image]}
    body["messages"] = [{"role": "user", "content": [result]}]
    assert (await post(server, "/v1/messages", body))[0] == 200
    assert "<image>" in (server.ledger.requests[-1].prompt or "")


@pytest.mark.parametrize("stream", [False, True])
async def test_message_holds_one_call_when_parallel_use_is_disabled(server: World, stream: bool) -> None:
    body = {
        "model": "qwen",
        "max_tokens": 500,
        "tools": [{"name": "get_weather", "input_schema": {"type": "object"}}],
        "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
        "messages": [{"role": "user", "content": f"«{CALL}\n{CALL}»"}],
        "stream": stream,
    }
    assert (await lines(server, "/v1/messages", body)).replace('"type": ', '"type":').count('"type":"tool_use"') == 1


async def test_an_empty_answer_is_still_a_message(server: World) -> None:
    body = {"model": "qwen", "max_tokens": 5, "messages": [{"role": "user", "content": "«»"}]}
    _, said, _ = await post(server, "/v1/messages", body)
    assert said["content"] == [{"type": "text", "text": ""}]
    for path in ("/v1/messages", "/v1/chat/completions", "/api/chat"):
        assert await lines(server, path, {**body, "stream": True})


async def test_tokens_are_counted_where_there_is_a_tokenizer(server: World) -> None:
    write_tokenizer(server.folder / "qwen")
    body = {"model": "qwen", "messages": [{"role": "user", "content": "one two three"}]}
    status, said, _ = await post(server, "/v1/messages/count_tokens", body)
    assert status == 200 and said["input_tokens"] >= 3


# ── the daemon's own ─────────────────────────────────────────────────────────────────────────────


async def test_a_folder_that_is_no_entry_shows_with_its_reason(server: World) -> None:
    (server.folder / "broken").mkdir()
    (server.folder / "broken" / "model.toml").write_text("id = 3\n")
    async with server.http.get(f"{server.url}/v1/status") as response:
        said = await response.json()
    assert [problem["folder"] for problem in said["problems"]] == ["broken"]
    assert said["may"]["control"] is False and len(said["models"]) == 5


async def test_a_model_that_was_removed_while_loaded_is_still_shown(server: World) -> None:
    await server.dispatcher.load("qwen")
    (server.folder / "qwen" / "model.toml").unlink()
    async with server.http.get(f"{server.url}/api/ps") as response:
        assert [model["name"] for model in (await response.json())["models"]] == ["qwen"]
    async with server.http.get(f"{server.url}/v1/status") as response:
        assert "qwen" in [model["name"] for model in (await response.json())["models"]]


async def test_readiness_ends_with_the_drain() -> None:
    async with world() as server:
        await server.dispatcher.drain(0)
        async with server.http.get(f"{server.url}/readyz") as response:
            assert response.status == 503 and "stopping" in await response.text()


async def test_unix_socket_grants_control(tmp_path: Path) -> None:
    import aiohttp
    from aiohttp import web

    from exo_rkllm.api.application import application
    from exo_rkllm.api.context import ApiContext, ApiServerSettings

    async with world() as server:
        parts = ApiContext(server.dispatcher, server.catalogue, settings=lambda: ApiServerSettings(loopback=False))
        runner = web.AppRunner(application(parts))
        await runner.setup()
        await web.UnixSite(runner, str(tmp_path / "s")).start()
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(tmp_path / "s"))) as http:
            async with http.post("http://localhost/v1/models/qwen/load") as response:
                assert response.status == 200
            async with http.get("http://localhost/v1/status") as response:
                assert (await response.json())["may"]["control"] is True
        await runner.cleanup()
