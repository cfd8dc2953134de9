"""Answers that are held to a form, through dispatcher, engine and child, on a simulated model that errs."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from exo_rkllm.api.response_format import ResponseFormat
from exo_rkllm.backends.base import JSON, Finish, GenerationRequest, Message, Piece, Tool
from exo_rkllm.errors import AnswerInvalid, NotSupported, UsageError
from exo_rkllm.structure import matcher
from tests.structure.conftest import Talks

pytest.importorskip("llguidance")

CITY: dict[str, JSON] = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "people": {"type": "integer", "minimum": 1},
        "tags": {"type": "array", "items": {"enum": ["sea", "hills"]}, "minItems": 1},
    },
    "required": ["city", "people", "tags"],
    "additionalProperties": False,
}
LONG = bool(os.environ.get("TESTS_LONG"))
FIND = Tool("find", "Finds.", CITY)
LOOK = Tool(
    "look",
    "Looks.",
    {"properties": {"at": {"type": "string"}}, "required": ["at"], "additionalProperties": False},
)
OSLO = json.dumps({"city": "Oslo", "people": 709037, "tags": ["sea", "hills"]})


async def test_obedient_answer_comes_as_it_was_said_and_in_one_run(talks: Talks) -> None:
    async with talks() as talk:
        answer = await talk.ask(ResponseFormat("schema", CITY), OSLO)
        assert answer.text == OSLO
        assert answer.finish.reason == "stop"
        assert len(talk.prompts) == 1


async def test_model_that_errs_goes_on_from_what_was_valid(talks: Talks) -> None:
    async with talks(error_rate=0.2, seed=3) as talk:
        for _ in range(10):
            answer = await talk.ask(ResponseFormat("schema", CITY), OSLO)
            value = json.loads(answer.text)
            assert set(value) == {"city", "people", "tags"}
        assert len(talk.prompts) > 10


async def test_tokens_are_counted_once(talks: Talks) -> None:
    async with talks() as talk:
        plain = (await talk.ask(ResponseFormat("schema", CITY), OSLO)).finish
    async with talks(error_rate=0.15, seed=2) as talk:
        finishes = [(await talk.ask(ResponseFormat("schema", CITY), OSLO)).finish for _ in range(8)]
    assert {finish.usage.prompt for finish in finishes} == {plain.usage.prompt}
    for finish in finishes:
        assert finish.usage.completion < 2 * plain.usage.completion
        assert finish.reason == "stop"
        assert finish.timings.decode >= 0


async def test_model_that_insists_has_the_answer_completed_for_it(talks: Talks) -> None:
    async with talks() as talk:
        for said in ("Sure! Here is your JSON:", " ", '{"city": "Oslo", "people": "many"}', '{"nothing": "of it"}'):
            talk.prompts.clear()
            answer = await talk.ask(ResponseFormat("schema", CITY), said)
            value = json.loads(answer.text)
            assert set(value) == {"city", "people", "tags"} and value["people"] >= 1, answer.text
            assert len(talk.prompts) < 40


async def test_fence_and_what_follows_it_are_left_out(talks: Talks) -> None:
    async with talks() as talk:
        answer = await talk.ask(ResponseFormat("schema", CITY), f"```json\n{OSLO}\n```\nThat is all.")
        assert answer.text == OSLO
        assert len(talk.prompts) == 1


async def test_thoughts_are_free_and_the_answer_behind_them_is_not(talks: Talks) -> None:
    for thinking in (True, None):
        async with talks(family="qwen3-4b", thinking='Is it {"city"?') as talk:
            answer = await talk.ask(ResponseFormat("schema", CITY), OSLO, thinking=thinking)
            assert (answer.text, len(talk.prompts)) == (OSLO, 1)
            assert answer.thoughts.strip() == 'Is it {"city"?'
        async with talks(family="qwen3-4b", thinking='Is it {"city"?', error_rate=0.1, seed=5) as talk:
            answer = await talk.ask(ResponseFormat("schema", CITY), OSLO, thinking=thinking)
            assert set(json.loads(answer.text)) == {"city", "people", "tags"}


async def test_answer_that_is_cut_is_an_error_that_names_the_limit(talks: Talks) -> None:
    async with talks() as talk:
        for longest in (3, 8):
            with pytest.raises(AnswerInvalid, match=r"before it was complete.*max_tokens"):
                await talk.ask(ResponseFormat("schema", CITY), OSLO, max_tokens=longest)
    async with talks(max_context=420) as talk:
        with pytest.raises(AnswerInvalid, match="the context is used up"):
            await talk.ask(ResponseFormat("schema", CITY), json.dumps({"city": "Oslo " * 40}), max_tokens=None)


async def test_valid_answer_that_could_go_on_is_cut_as_any_other(talks: Talks) -> None:
    async with talks() as talk:
        answer = await talk.ask(ResponseFormat("regex", "[a-z ]+"), "one two three four", max_tokens=2)
        assert answer.text == "one two"
        assert answer.finish.reason == "length"


async def test_clients_stop_string_ends_the_answer(talks: Talks) -> None:
    async with talks() as talk:
        answer = await talk.ask(ResponseFormat("regex", "[a-z ]+"), "one two three four", stop=(" three",))
        assert (answer.text, answer.finish.reason, answer.finish.stop) == ("one two", "stop", " three")
        assert len(talk.prompts) == 1


async def test_answer_that_is_stopped_from_outside_is_not_repaired(talks: Talks) -> None:
    async with talks(decode_tps=50) as talk:
        shape = ResponseFormat("regex", "[a-z ]+")
        request = GenerationRequest(
            model="m", messages=(Message("user", "one " * 200),), structure=shape.structure, id="it"
        )
        events = []
        async for event in talk.dispatcher.generate(request):
            events.append(event)
            if len(events) == 5:
                await talk.dispatcher.stop("it")
        assert isinstance(events[-1], Finish) and events[-1].reason == "abort"
        assert len(talk.prompts) == 1


async def test_call_that_is_offered_may_be_the_answer(talks: Talks) -> None:
    async with talks() as talk:
        shape = ResponseFormat("schema", CITY)
        call = '<tool_call>\n{"name": "look", "arguments": {"at": "the tool_call"}}\n</tool_call>'
        answer = await talk.ask(shape, call, tools=(LOOK,))
        assert [one.name for one in answer.calls] == ["look"] and not answer.text
        answer = await talk.ask(shape, OSLO, tools=(LOOK,))
        assert answer.text == OSLO and not answer.calls


async def test_any_of_several_tools_is_called_with_its_own_arguments(talks: Talks) -> None:
    async with talks(error_rate=0.1) as talk:
        for _ in range(5):
            answer = await talk.call({"city": "Oslo", "people": 3, "tags": ["sea"]}, FIND, LOOK)
            (call,) = answer.calls
            value = json.loads(call.arguments)
            assert set(value) == {"find": {"city", "people", "tags"}, "look": {"at"}}[call.name], value
            assert answer.finish.reason == "tool_calls" and not answer.text


@pytest.mark.parametrize(
    "family", ["qwen3.5-2b", "minicpm4-0.5b", "llama-3.2-1b", "glm-4", "gemma-4-e2b", "phi-4-mini"]
)
async def test_families_that_write_calls_otherwise_are_held_to_json_arguments(talks: Talks, family: str) -> None:
    async with talks(family=family) as talk:
        answer = await talk.call({"at": "the sea"}, LOOK, choice="look")
        assert [(call.name, set(json.loads(call.arguments))) for call in answer.calls] == [("look", {"at"})]


async def test_helper_that_dies_amid_an_answer_costs_nothing(talks: Talks) -> None:
    async with talks(decode_tps=60) as talk:
        shape = ResponseFormat("schema", CITY)
        messages = shape.with_instructions([Message("user", OSLO)])
        request = GenerationRequest(model="m", messages=messages, structure=shape.structure)
        text, killed = "", False
        async for event in talk.dispatcher.generate(request):
            text += event.text if isinstance(event, Piece) else ""
            if "people" in text and not killed:
                matchers = talk.dispatcher._prompts._matchers
                assert matchers is not None and matchers.helper.pid is not None
                os.kill(matchers.helper.pid, signal.SIGKILL)
                killed = True
        assert killed and text == OSLO


async def test_form_that_takes_too_long_is_refused_and_the_next_answer_is_not(
    talks: Talks, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with talks() as talk:
        await talk.ask(ResponseFormat("schema", CITY), OSLO)
        monkeypatch.setattr(matcher, "READ_SECONDS", 0.0)
        with pytest.raises(UsageError, match="was stopped: it took longer than 0 s"):
            await talk.ask(ResponseFormat("schema", CITY), OSLO)
        monkeypatch.undo()
        assert (await talk.ask(ResponseFormat("schema", CITY), OSLO)).text == OSLO


async def test_where_nothing_holds_answers_they_are_asked_for(talks: Talks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matcher, "installed", lambda: False)
    async with talks() as talk:
        assert (await talk.ask(ResponseFormat("schema", CITY), "no JSON")).text == "no JSON", "and checked by the face"
        with pytest.raises(NotSupported, match=r"held to a choice here.*pip install llguidance"):
            await talk.ask(ResponseFormat("choice", ["a"]), "a")


def test_package_of_the_system_counts_as_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matcher, "PACKAGE", "carried_along")
    assert not matcher.installed(tmp_path)
    (tmp_path / "carried_along").mkdir()
    assert matcher.installed(tmp_path)


async def test_process_ends_when_no_answer_has_a_form(talks: Talks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matcher, "IDLE_SECONDS", 0.05)
    async with talks() as talk:
        await talk.ask(ResponseFormat("schema", CITY), OSLO)
        await asyncio.sleep(0.3)
        matchers = talk.dispatcher._prompts._matchers
        assert matchers is not None and matchers.helper.pid is None


async def test_form_costs_an_obedient_model_next_to_nothing(talks: Talks) -> None:
    """No repair; with TESTS_LONG=1, at a board's speed, the times as well."""
    speed: dict[str, Any] = {"speed": "rk3588/qwen2.5-1.5b"} if LONG else {"decode_tps": 500}
    async with talks(**speed) as talk:
        shape = ResponseFormat("schema", CITY)
        times: dict[str, list[float]] = {"free": [], "held": []}
        messages = shape.with_instructions([Message("user", OSLO)])
        turns = 11 if LONG else 4
        for turn in range(turns):
            for kind, structure in (("free", None), ("held", shape.structure)):
                began = time.monotonic()
                request = GenerationRequest(model="m", messages=messages, structure=structure)
                pieces = [event async for event in talk.dispatcher.generate(request) if isinstance(event, Piece)]
                assert "".join(piece.text for piece in pieces) == OSLO
                if turn:
                    times[kind].append(time.monotonic() - began)
        assert len(talk.prompts) == 2 * turns, "no repair"
    if LONG:
        ratio = median(times["held"]) / median(times["free"])
        print(f"held to a form: {ratio:.3f} times as long, {median(times['free']):.2f} s")  # noqa: T201
        assert ratio <= 1.05
