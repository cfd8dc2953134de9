"""Anthropic's own client, unmodified."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anthropic
import pytest
from anthropic import AsyncAnthropic

from tests.api.world import World

WEATHER = {"name": "get_weather", "description": "The weather", "input_schema": {"type": "object"}}
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>'


@pytest.fixture
async def client(server: World) -> AsyncIterator[Any]:
    async with AsyncAnthropic(base_url=server.url, api_key="any", max_retries=0) as client:
        yield client


async def test_a_message_has_its_text_and_its_usage(client: Any, server: World) -> None:
    answer = await client.messages.create(
        model="qwen", max_tokens=100, system="Be brief.", messages=[{"role": "user", "content": "Hello"}]
    )
    assert [block.type for block in answer.content] == ["text"]
    assert answer.content[0].text == "Hello"
    assert answer.stop_reason == "end_turn"
    assert answer.usage.output_tokens == 2 and answer.usage.cache_read_input_tokens == 2
    assert "Be brief." in (server.ledger.requests[-1].prompt or "")


async def test_a_stream_adds_up_to_the_message(client: Any) -> None:
    said = f"«<think>\nhm\n</think>\n\nLooking.\n{CALL}»"
    async with client.messages.stream(
        model="thinker",
        max_tokens=1000,
        thinking={"type": "enabled", "budget_tokens": 1024},
        tools=[WEATHER],
        messages=[{"role": "user", "content": said}],
    ) as stream:
        text = "".join([text async for text in stream.text_stream])
        final = await stream.get_final_message()
    assert text == "Looking."
    assert [block.type for block in final.content] == ["thinking", "text", "tool_use"]
    assert final.content[2].input == {"city": "Oslo"}
    assert final.stop_reason == "tool_use"
    assert final.usage.output_tokens > 0


async def test_tool_results_reach_the_model(client: Any, server: World) -> None:
    await client.messages.create(
        model="qwen",
        max_tokens=10,
        tools=[WEATHER],
        messages=[
            {"role": "user", "content": "Weather?"},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "get_weather", "input": {}}]},
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "rain"}]},
                    {"type": "text", "text": "And now?"},
                ],
            },
        ],
    )
    prompt = server.ledger.requests[-1].prompt or ""
    assert prompt.index("rain") < prompt.index("And now?")


async def test_message_ends_at_max_tokens_and_calls_a_forced_tool(client: Any, server: World) -> None:
    answer = await client.messages.create(model="qwen", max_tokens=1, messages=[{"role": "user", "content": "Hello"}])
    assert answer.stop_reason == "max_tokens"
    await client.messages.create(
        model="qwen",
        max_tokens=10,
        tools=[WEATHER],
        tool_choice={"type": "tool", "name": "get_weather"},
        messages=[{"role": "user", "content": '«{"city": "Oslo"}}\n</tool_call>»'}],
    )
    assert "get_weather" in (server.ledger.requests[-1].prompt or "").rsplit("assistant", 1)[-1]


async def test_client_raises_its_own_error_classes(client: Any) -> None:
    with pytest.raises(anthropic.NotFoundError, match="No model"):
        await client.messages.create(model="claude-1", max_tokens=1, messages=[{"role": "user", "content": "Hi"}])
    with pytest.raises(anthropic.APIError, match="gave up"):
        async with client.messages.stream(
            model="qwen", max_tokens=100, messages=[{"role": "user", "content": "!break in the middle"}]
        ) as stream:
            await stream.get_final_message()


async def test_tokens_are_counted_without_a_tokenizer(client: Any) -> None:
    counted = await client.messages.count_tokens(model="qwen", messages=[{"role": "user", "content": "Hello"}])
    assert counted.input_tokens > 5


async def test_models_are_listed_in_the_clients_own_form(client: Any) -> None:
    listed = await client.models.list()
    assert "qwen" in [model.id for model in listed.data]
    assert (await client.models.retrieve("qwen")).display_name == "qwen"


async def test_message_names_the_stop_sequence_that_ended_it(client: Any) -> None:
    asked: dict[str, Any] = {"model": "qwen", "max_tokens": 50, "messages": [{"role": "user", "content": "Hello"}]}
    whole = await client.messages.create(**asked)
    word = whole.content[0].text.split()[-1]
    cut = await client.messages.create(**asked, stop_sequences=["never said", word])
    assert (cut.stop_reason, cut.stop_sequence) == ("stop_sequence", word)
    assert word not in cut.content[0].text
    async with client.messages.stream(**asked, stop_sequences=[word]) as stream:
        final = await stream.get_final_message()
    assert (final.stop_reason, final.stop_sequence) == ("stop_sequence", word)
