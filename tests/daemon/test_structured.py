"""Every way in which clients ask for a form, at an assembled daemon whose model errs with every tenth token."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.running import Daemon, House

pytest.importorskip("llguidance")

CARD = 'base_model = "Qwen/Qwen2.5-1.5B-Instruct"\n[weights]\nfile = "m.rkllm"\n'
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "people": {"type": "integer"}},
    "required": ["city", "people"],
    "additionalProperties": False,
}
OSLO = {"city": "Oslo", "people": 709037}
SAID = json.dumps(OSLO)
CHAT, ASKED = "/v1/chat/completions", [{"role": "user", "content": SAID}]
FUNCTION = {"name": "look_up", "description": "Looks a city up.", "parameters": SCHEMA}
CALL = f'<tool_call>\n{{"name": "look_up", "arguments": {SAID}}}\n</tool_call>'
TOOLS = [{"type": "function", "function": FUNCTION}]


@pytest.fixture
def daemon(board_house: House, make_model: Callable[..., Path]) -> Daemon:
    board_house.add("m", CARD)
    model = make_model(
        reply="{user}", rules=(("<tool_call>", "{user}"),), continues=True, error_rate=0.1, toolkit="1.2.1"
    )
    model.rename(board_house.models / "m" / "m.rkllm")
    return board_house.start()


def post(daemon: Daemon, path: str, body: dict[str, Any]) -> Any:
    url = f"http://{daemon.status()['listening'][0]}{path}"
    data = json.dumps({"model": "m", **body}).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
        text = answer.read().decode()
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")] or json.loads(text)


def is_city(value: Any) -> bool:
    return set(value) == set(OSLO) and isinstance(value["city"], str) and isinstance(value["people"], int)


def texts(daemon: Daemon) -> Iterator[tuple[str, str]]:
    """What each way of asking for the schema gets, as text."""
    form = {"type": "json_schema", "json_schema": {"name": "city", "schema": SCHEMA}}
    for fields in (
        {"response_format": form},
        {"guided_json": SCHEMA},
        {"guided_json": json.dumps(SCHEMA)},
        {"structured_outputs": {"json": SCHEMA}},
        {"json_schema": SCHEMA},
    ):
        answer = post(daemon, CHAT, {"messages": ASKED, **fields})
        yield next(iter(fields)), answer["choices"][0]["message"]["content"]
    chunks = post(daemon, CHAT, {"messages": ASKED, "response_format": form, "stream": True})
    yield "stream", "".join(one["delta"].get("content") or "" for chunk in chunks for one in chunk["choices"])
    answer = post(daemon, "/v1/responses", {"input": SAID, "text": {"format": {**form, "schema": SCHEMA}}})
    yield "responses", answer["output"][-1]["content"][0]["text"]
    answer = post(daemon, "/api/chat", {"messages": ASKED, "format": SCHEMA, "stream": False})
    yield "ollama chat", answer["message"]["content"]
    answer = post(daemon, "/api/generate", {"prompt": SAID, "format": SCHEMA, "stream": False})
    yield "ollama generate", answer["response"]
    prompt = f"<|im_start|>user\n{SAID}<|im_end|>\n<|im_start|>assistant\n"
    yield (
        "completions",
        post(daemon, "/v1/completions", {"prompt": prompt, "guided_json": SCHEMA})["choices"][0]["text"],
    )


def test_every_language_gets_what_its_schema_asks_for(daemon: Daemon) -> None:
    for way, text in texts(daemon):
        assert is_city(json.loads(text)), (way, text)
    events = daemon.client.stream("POST", "/control/ask", model="m", structure={"kind": "json"}, messages=ASKED)
    assert isinstance(json.loads("".join(event.get("text", "") for event in events)), dict)
    for form in ({"response_format": {"type": "json_object"}}, {"structured_outputs": {"json_object": True}}):
        answer = post(daemon, CHAT, {"messages": ASKED, **form})
        assert isinstance(json.loads(answer["choices"][0]["message"]["content"]), dict)


def test_expressions_choices_and_grammars_are_held_to(daemon: Daemon) -> None:
    for fields, said, expected in (
        ({"guided_regex": "[a-z]+-[0-9]{2}"}, "abc-12", r"[a-z]+-[0-9]{2}"),
        ({"guided_choice": ["yes", "no", "it depends"]}, "it depends", r"yes|no|it depends"),
        ({"structured_outputs": {"choice": ["red", "green"]}}, "blue", r"red|green"),
        ({"guided_grammar": 'root ::= "a"+ "b"'}, "aaab", r"a+b"),
        ({"grammar": 'root ::= [0-9]+ " " ("km" | "mi")'}, "12 km", r"[0-9]+ (km|mi)"),
    ):
        answer = post(daemon, CHAT, {"messages": [{"role": "user", "content": said}], **fields})
        text = answer["choices"][0]["message"]["content"]
        assert re.fullmatch(expected, text), (fields, text)


def test_forced_calls_have_arguments_that_are_valid(daemon: Daemon) -> None:
    for choice in ("required", {"type": "function", "function": {"name": "look_up"}}):
        body = {"messages": [{"role": "user", "content": CALL}], "tools": TOOLS, "tool_choice": choice}
        answer = post(daemon, CHAT, body)["choices"][0]
        assert answer["finish_reason"] == "tool_calls"
        assert not answer["message"]["content"]
        (call,) = answer["message"]["tool_calls"]
        assert is_city(json.loads(call["function"]["arguments"]))
    tool = {"name": "look_up", "input_schema": SCHEMA}
    for pick in ({"type": "any"}, {"type": "tool", "name": "look_up"}):
        body = {
            "messages": [{"role": "user", "content": CALL}],
            "max_tokens": 500,
            "tools": [tool],
            "tool_choice": pick,
        }
        answer = post(daemon, "/v1/messages", body)
        assert answer["stop_reason"] == "tool_use"
        (block,) = [block for block in answer["content"] if block["type"] == "tool_use"]
        assert is_city(block["input"])


def test_two_forms_and_forms_that_are_none_are_refused_with_the_field(daemon: Daemon) -> None:
    for fields, words in (
        ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_regex and guided_choice both say"),
        ({"guided_regex": "(?=a)b"}, "look-around"),
        ({"grammar": "root ::= nothing"}, "nothing"),
        ({"guided_json": {"type": "string", "if": {}}}, "'if'"),
    ):
        with pytest.raises(urllib.error.HTTPError) as error:
            post(daemon, CHAT, {"messages": ASKED, **fields})
        said = json.loads(error.value.read())
        assert error.value.code == 400, said
        assert words in said["error"]["message"]
