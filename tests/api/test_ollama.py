"""Ollama's own client, unmodified."""

from __future__ import annotations

import math
import time
from typing import Any

import ollama
import pytest
from ollama import AsyncClient

from tests.api.test_serving import LAN
from tests.api.world import CARDS, WIDTH, World, world

CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>'


@pytest.fixture
def client(server: World) -> Any:
    return AsyncClient(server.url)


async def test_a_chat_has_real_counts_and_durations(client: Any) -> None:
    answer = await client.chat("qwen:latest", [{"role": "user", "content": "Hello"}])
    assert answer.message.content == "Hello"
    assert answer.done_reason == "stop"
    assert answer.eval_count == 2 and answer.prompt_eval_count and answer.prompt_eval_count > 0
    # The first of two tokens came with the prefill: at 4 ms a token, two take 8.
    assert answer.eval_duration == 8_000_000 and answer.prompt_eval_duration == 2_000_000
    assert answer.total_duration and answer.load_duration is not None


async def test_a_stream_survives_every_kind_of_line_break(client: Any) -> None:
    said = "a\u2028b\u0085c\x1cd\ne"
    parts = [part async for part in await client.chat("qwen", [{"role": "user", "content": said}], stream=True)]
    assert "".join(part.message.content or "" for part in parts) == said
    assert [part.done for part in parts].count(True) == 1 and parts[-1].eval_count


async def test_generate_takes_system_options_and_raw(client: Any, server: World) -> None:
    answer = await client.generate("qwen", "abcdefghi", system="Be brief.", options={"num_predict": 2, "num_ctx": 8192})
    assert answer.response == "abcdef" and answer.done_reason == "length"
    assert "Be brief." in (server.ledger.requests[-1].prompt or "")
    await client.generate("qwen", "as it stands", raw=True)
    assert server.ledger.requests[-1].prompt == "as it stands"


async def test_chat_separates_thinking_and_tool_calls(client: Any) -> None:
    tool = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
    said = f"«<think>\nhm\n</think>\n\nLooking.\n{CALL}»"
    whole = await client.chat("thinker", [{"role": "user", "content": said}], tools=[tool], think=True)
    assert whole.message.thinking == "hm" and whole.message.content == "Looking."
    assert whole.message.tool_calls is not None
    assert whole.message.tool_calls[0].function.arguments == {"city": "Oslo"}
    calls: list[Any] = []
    async for part in await client.chat("thinker", [{"role": "user", "content": said}], tools=[tool], stream=True):
        calls += part.message.tool_calls or []
    assert [made.function.name for made in calls] == ["get_weather"]


async def test_answer_is_checked_against_the_format(client: Any) -> None:
    answer = await client.chat("qwen", [{"role": "user", "content": '«{"a": 1}»'}], format="json")
    assert answer.message.content == '{"a": 1}'
    schema = {"type": "object", "required": ["b"]}
    with pytest.raises(ollama.ResponseError, match="has no 'b'"):
        await client.chat("qwen", [{"role": "user", "content": '«{"a": 1}»'}], format=schema)


async def test_tags_ps_and_show_describe_models(client: Any) -> None:
    listed = await client.list()
    assert {model.model for model in listed.models} == set(CARDS)
    qwen = next(model for model in listed.models if model.model == "qwen")
    assert qwen.details is not None and qwen.details.parameter_size == "1.5B"
    shown = await client.show("thinker")
    assert {"completion", "tools", "thinking"} <= set(shown.capabilities or ())


async def test_keep_alive_loads_lists_and_unloads(client: Any) -> None:
    assert not (await client.ps()).models
    loaded = await client.generate("qwen", keep_alive="10m")
    assert loaded.done_reason == "load"
    running = (await client.ps()).models
    assert [model.model for model in running] == ["qwen"] and running[0].expires_at is not None
    unloaded = await client.chat("qwen", keep_alive=0)
    assert unloaded.done_reason == "unload"
    assert not (await client.ps()).models


async def test_both_embedding_endpoints_return_unit_vectors(client: Any) -> None:
    many = await client.embed("qwen", ["a b", "c d e"])
    assert [len(vector) for vector in many.embeddings] == [WIDTH, WIDTH]
    assert math.isclose(sum(value * value for value in many.embeddings[0]), 1, rel_tol=1e-5)
    assert many.prompt_eval_count == 5
    one = await client.embeddings("qwen", "a b")
    assert list(one.embedding) == pytest.approx(list(many.embeddings[0]))


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"suffix": "x"}, "fill no gaps"),
        ({"context": [1]}, "kept by the caller"),
        ({"template": "x"}, "belongs to the model"),
        ({"keep_alive": "soon"}, "keep_alive must be seconds or a duration"),
    ],
)
async def test_what_cannot_be_honoured_is_refused(client: Any, asked: dict[str, object], says: str) -> None:
    with pytest.raises(ollama.ResponseError, match=says):
        await client.generate("qwen", "hi", **asked)


async def test_changing_calls_need_the_right_to_control(client: Any, server: World) -> None:
    for ask in (
        client.pull("org/repo"),
        client.delete("qwen"),
        client.copy("qwen", "other"),
        client.create("other", from_="qwen"),
    ):
        with pytest.raises(ollama.ResponseError, match="right to control") as caught:
            await ask
        assert caught.value.status_code == 403
    assert (server.folder / "qwen" / "model.toml").is_file()


async def test_only_a_full_name_deletes() -> None:
    async with world(settings=LAN, cards={"qwen3-0.6b": CARDS["qwen"], "other": CARDS["qwen"]}) as server:
        client = AsyncClient(server.url, headers={"Authorization": "Bearer sesame"})
        assert (await client.show("qwen3")).details is not None
        with pytest.raises(ollama.ResponseError, match="No model 'qwen3'") as caught:
            await client.delete("qwen3")
        assert caught.value.status_code == 404
        await client.delete("qwen3-0.6b:latest")
        assert [entry.id for entry in server.catalogue.list()] == ["other"]


@pytest.mark.parametrize(
    ("keep_alive", "seconds"),
    [
        (None, 300), (600, 600), ("10m", 600), ("1h30m", 5400), ("1d", 86400), ("-1", None), ("-1s", None), (-1, None),
        ("10 m", 600), ("60000ms", 60), ("", 300),
    ],
)  # fmt: skip
async def test_keep_alive_is_taken_in_every_form(
    server: World, client: Any, keep_alive: float | str | None, seconds: float | None
) -> None:
    """None and an empty one leave it to the configuration."""
    loaded = await client.generate("qwen", keep_alive=keep_alive)
    assert loaded.done_reason == "load"
    (model,) = server.dispatcher.status().models
    assert (model.unload_at and model.unload_at - time.time()) == (seconds and pytest.approx(seconds, abs=30))


@pytest.mark.parametrize("keep_alive", ["0", "0s", 0])
async def test_keep_alive_of_zero_unloads_in_every_form(client: Any, keep_alive: float | str) -> None:
    await client.generate("qwen")
    assert (await client.generate("qwen", keep_alive=keep_alive)).done_reason == "unload"
