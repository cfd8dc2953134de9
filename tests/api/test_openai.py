"""OpenAI's own client, unmodified, over the whole surface."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI
from pydantic import BaseModel

from tests.api.world import CARDS, WIDTH, World

WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>'


@pytest.fixture
async def client(server: World) -> AsyncIterator[Any]:
    async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0) as client:
        yield client


async def test_models_are_those_of_the_catalogue(client: Any) -> None:
    assert {model.id async for model in client.models.list()} == set(CARDS)
    assert (await client.models.retrieve("Qwen/Qwen2.5-1.5B-Instruct")).id == "qwen"
    with pytest.raises(openai.NotFoundError, match="No model 'nobody'"):
        await client.models.retrieve("nobody")


async def test_a_chat_has_its_answer_and_its_usage(client: Any) -> None:
    answer = await client.chat.completions.create(
        model="qwen", messages=[{"role": "user", "content": "Hello, world"}], temperature=0.5, max_tokens=100
    )
    assert answer.choices[0].message.content == "Hello, world"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None and answer.usage.prompt_tokens > 0 and answer.usage.completion_tokens == 4
    assert answer.usage.prompt_tokens_details is not None and answer.usage.prompt_tokens_details.cached_tokens == 2


async def test_a_stream_is_the_same_answer_with_usage_at_the_end(client: Any) -> None:
    text, usage, reasons = "", None, []
    async for chunk in await client.chat.completions.create(
        model="qwen",
        messages=[{"role": "user", "content": "Zeile\u2028zwei „ß“ 🎉"}],
        stream=True,
        stream_options={"include_usage": True},
    ):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
            reasons += [choice.finish_reason] if choice.finish_reason else []
    assert text == "Zeile\u2028zwei „ß“ 🎉"
    assert reasons == ["stop"]
    assert usage is not None and usage.completion_tokens > 0


async def test_parts_of_a_message_become_its_text(client: Any) -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    answer = await client.chat.completions.create(
        model="qwen",
        messages=[{"role": "developer", "content": "Be brief."}, {"role": "user", "content": parts}],
    )
    assert answer.choices[0].message.content == "one\ntwo"


async def test_both_names_of_max_tokens_cut_the_answer(client: Any) -> None:
    for limit in ({"max_tokens": 2}, {"max_completion_tokens": 2}):
        answer = await client.chat.completions.create(
            model="qwen", messages=[{"role": "user", "content": "abcdefghi"}], extra_body=limit
        )
        assert answer.choices[0].message.content == "abcdef"
        assert answer.choices[0].finish_reason == "length"


async def test_a_stop_string_that_is_cut_over_pieces_never_shows(client: Any) -> None:
    answer = await client.chat.completions.create(
        model="qwen", messages=[{"role": "user", "content": "before HALT after"}], stop=["HALT"]
    )
    assert answer.choices[0].message.content == "before "
    assert answer.choices[0].finish_reason == "stop"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_tool_call_comes_whole_with_its_reason(client: Any, stream: bool) -> None:
    asked = {
        "model": "qwen",
        "messages": [{"role": "user", "content": f"«Let me look.\n{CALL}»"}],
        "tools": [WEATHER],
    }
    if stream:
        async with client.chat.completions.stream(**asked) as events:
            answer = await events.get_final_completion()
    else:
        answer = await client.chat.completions.create(**asked)
    choice = answer.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert [made.function.name for made in choice.message.tool_calls] == ["get_weather"]
    assert json.loads(choice.message.tool_calls[0].function.arguments) == {"city": "Oslo"}
    assert choice.message.content == "Let me look."


async def test_answer_holds_parallel_calls_unless_forbidden(client: Any) -> None:
    for parallel, count in ((True, 2), (False, 1)):
        answer = await client.chat.completions.create(
            model="qwen",
            messages=[{"role": "user", "content": f"«{CALL}\n{CALL}»"}],
            tools=[WEATHER],
            parallel_tool_calls=parallel,
        )
        assert len(answer.choices[0].message.tool_calls or ()) == count


async def test_tool_choice_none_hides_the_tools_and_a_name_forces_one(client: Any, server: World) -> None:
    ask = {"model": "qwen", "messages": [{"role": "user", "content": "hi"}], "tools": [WEATHER]}
    await client.chat.completions.create(**ask, tool_choice="none")
    assert "get_weather" not in (server.ledger.requests[-1].prompt or "")
    named = {"type": "function", "function": {"name": "get_weather"}}
    for choice in ("required", named):
        with pytest.raises(openai.UnprocessableEntityError, match="had to call get_weather"):
            await client.chat.completions.create(**ask, tool_choice=choice)
        assert (server.ledger.requests[-1].prompt or "").endswith('<tool_call>\n{"name": "get_weather", "arguments": ')
    with pytest.raises(openai.BadRequestError, match="not among the tools"):
        other = {"type": "function", "function": {"name": "other"}}
        await client.chat.completions.create(**ask, tool_choice=other)


async def test_a_tools_result_goes_back_to_the_model(client: Any, server: World) -> None:
    made = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Oslo"}'}}
    await client.chat.completions.create(
        model="qwen",
        messages=[
            {"role": "user", "content": "Weather?"},
            {"role": "assistant", "content": None, "tool_calls": [made]},
            {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
        ],
        tools=[WEATHER],
    )
    prompt = server.ledger.requests[-1].prompt or ""
    assert "rain" in prompt and '"city": "Oslo"' in prompt


@pytest.mark.parametrize("stream", [False, True])
async def test_answer_separates_thoughts_from_text(client: Any, stream: bool) -> None:
    asked = {
        "model": "thinker",
        "messages": [{"role": "user", "content": "«<think>\nhm, well\n</think>\n\n42»"}],
    }
    if stream:
        content = thoughts = ""
        async for chunk in await client.chat.completions.create(**asked, stream=True):
            content += chunk.choices[0].delta.content or ""
            thoughts += getattr(chunk.choices[0].delta, "reasoning_content", "") or ""
    else:
        message = (await client.chat.completions.create(**asked)).choices[0].message
        content, thoughts = message.content, message.reasoning_content
    assert (content, thoughts) == ("42", "hm, well")


class City(BaseModel):
    name: str
    people: int


async def test_json_that_fits_its_schema_is_parsed_by_the_client(client: Any, server: World) -> None:
    answer = await client.chat.completions.parse(
        model="qwen",
        messages=[{"role": "user", "content": '«```json\n{"name": "Oslo", "people": 700000}\n```\n»'}],
        response_format=City,
    )
    assert answer.choices[0].message.parsed == City(name="Oslo", people=700000)
    assert '"people"' in (server.ledger.requests[-1].prompt or "")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("said", ["no JSON at all", '{"name": "Oslo"}', '{"name": 1, "people": 2}'])
async def test_json_that_violates_its_schema_is_an_error(client: Any, said: str, stream: bool) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "City", "schema": City.model_json_schema()}}
    with pytest.raises(openai.APIError, match="model's answer"):
        answer = await client.chat.completions.create(
            model="qwen",
            messages=[{"role": "user", "content": f"«{said}»"}],
            response_format=form,
            stream=stream,
        )
        async for _ in answer:
            pass


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("n", 2, "n is 2, and the NPU computes one answer"),
        ("ignore_eos", True, "ignore_eos is true"),
        ("guided_regex", "a+", "Answers of qwen cannot be held to a regular expression here.*llguidance"),
        ("guided_json", "{", "guided_json is text that is no JSON"),
        ("guided_json", "[]", "guided_json must be a JSON Schema, which is an object"),
        ("temperature", "hot", "temperature must be a number, not 'hot'"),
        ("temperature", 3, "temperature must be from 0 to 2"),
        ("max_tokens", -2, "max_tokens must be from -1"),
        ("tool_choice", "required", "no tools are given"),
        ("messages", [], "messages must not be empty"),
        ("messages", [{"role": "wizard", "content": ""}], "messages\\[0\\].role must be one of"),
        (
            "messages",
            [{"role": "user", "content": [{"type": "text"}]}],
            "messages\\[0\\].content\\[0\\].text is missing",
        ),
        ("reasoning_effort", "much", "reasoning_effort must be one of"),
    ],
)
async def test_what_cannot_be_honoured_is_refused_by_name(client: Any, field: str, value: object, says: str) -> None:
    with pytest.raises(openai.BadRequestError, match=says):
        await client.chat.completions.create(
            model="qwen", messages=[{"role": "user", "content": "hi"}], extra_body={field: value}
        )


async def test_the_error_names_the_field(client: Any) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(model="qwen", messages=[{"role": "user", "content": "hi"}], top_p=2)
    assert caught.value.param == "top_p"
    assert caught.value.code == "invalid_value"
    assert caught.value.type == "invalid_request_error"
    assert caught.value.request_id


async def test_a_run_that_breaks_in_mid_stream_is_an_error_in_the_stream(client: Any) -> None:
    text = ""
    with pytest.raises(openai.APIError, match="gave up"):
        async for chunk in await client.chat.completions.create(
            model="qwen", messages=[{"role": "user", "content": "!break in the middle of it"}], stream=True
        ):
            text += chunk.choices[0].delta.content or ""
    assert text == "!break in the m"


async def test_completions_continue_text_tokens_and_several(client: Any) -> None:
    answer = await client.completions.create(model="qwen", prompt="Once upon", max_tokens=2)
    assert answer.choices[0].text == "Once u"
    answer = await client.completions.create(model="qwen", prompt=["one", "two"], echo=True)
    assert [choice.text for choice in answer.choices] == ["oneone", "twotwo"]
    answer = await client.completions.create(model="dummy", prompt="x y z")
    assert answer.choices[0].text == "x y z"
    texts = ["", ""]
    async for chunk in await client.completions.create(model="qwen", prompt=["one", "two"], stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == ["one", "two"]


async def test_embeddings_have_length_one_in_both_encodings(client: Any) -> None:
    plain = await client.embeddings.create(model="qwen", input=["a b c", "a b d"], encoding_format="float")
    packed = await client.embeddings.create(model="qwen", input=["a b c", "a b d"])  # base64, which the client decodes
    assert plain.usage.prompt_tokens == 6
    for left, right in zip(plain.data, packed.data, strict=True):
        assert len(left.embedding) == WIDTH
        assert math.isclose(sum(value * value for value in left.embedding), 1, rel_tol=1e-5)
        assert left.embedding == pytest.approx(right.embedding)
    assert plain.data[0].embedding != plain.data[1].embedding
    cut = (await client.embeddings.create(model="qwen", input="a b c", dimensions=3)).data[0].embedding
    whole = plain.data[0].embedding[:3]
    assert cut == pytest.approx([value / math.hypot(*whole) for value in whole])


async def test_responses_continue_one_another(client: Any, server: World) -> None:
    first = await client.responses.create(model="qwen", input="My name is Ada", instructions="Be brief.")
    assert first.output_text == "My name is Ada"
    assert first.usage is not None and first.usage.output_tokens > 0
    second = await client.responses.create(model="qwen", input="Who am I?", previous_response_id=first.id)
    assert second.output_text == "Who am I?"
    prompt = server.ledger.requests[-1].prompt or ""
    assert prompt.count("My name is Ada") == 2 and "Be brief." not in prompt
    assert (await client.responses.retrieve(first.id)).output_text == "My name is Ada"
    await client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError, match="No response"):
        await client.responses.create(model="qwen", input="?", previous_response_id=first.id)


async def test_a_response_streams_its_events_in_order(client: Any) -> None:
    said = f"«<think>\nhm\n</think>\n\nLooking.\n{CALL}»"
    tool = {"type": "function", **WEATHER["function"]}
    kinds: list[str] = []
    numbers: list[int] = []
    final: Any = None
    async for event in await client.responses.create(model="thinker", input=said, tools=[tool], stream=True):
        numbers.append(event.sequence_number)
        if not kinds or kinds[-1] != event.type:
            kinds.append(event.type)
        final = event
    assert numbers == list(range(len(numbers)))
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.reasoning_text.delta",
        "response.reasoning_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.output_item.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert final is not None
    assert [item.type for item in final.response.output] == ["reasoning", "message", "function_call"]
    assert final.response.output_text == "Looking."


async def test_a_response_helper_of_the_client_reads_our_stream(client: Any) -> None:
    async with client.responses.stream(model="qwen", input="Hello there") as stream:
        final = await stream.get_final_response()
    assert final.output_text == "Hello there"


async def test_a_response_that_fails_says_so_in_its_stream(client: Any) -> None:
    events = [
        event
        async for event in await client.responses.create(model="qwen", input="!break in the middle of it", stream=True)
    ]
    assert events[-1].type == "response.failed"
    assert events[-1].response.error is not None and "gave up" in events[-1].response.error.message
