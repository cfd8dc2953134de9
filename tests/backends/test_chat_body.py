"""Requests in the words of other servers, without one."""

from __future__ import annotations

from pathlib import Path

import pytest

from exo_rkllm.backends.base import JSON, GenerationRequest, Message, Sampling, Structure, ToolCall
from exo_rkllm.backends.chat_body import LLAMA_FORMS, VLLM_FORMS, FormFields, body
from exo_rkllm.backends.openai import OpenAIEngine
from exo_rkllm.catalogue.card import Card
from exo_rkllm.catalogue.entry import Entry
from exo_rkllm.errors import NotSupported

HI, BEGUN = Message("user", "hi"), Message("assistant", "Well, ")


def test_adapter_is_a_model_of_its_own_at_a_server() -> None:
    options: dict[str, JSON] = {"base_url": "http://10.0.0.7:8000/v1", "model": "big", "loras": {"poet": "big-poet"}}
    engine = OpenAIEngine(Entry(Path("nowhere"), Card("m", engine="openai", options=options)))
    for lora, model in (("", "big"), ("poet", "big-poet")):
        assert engine.body(GenerationRequest(prompt="a", lora=lora))[1]["model"] == model


def test_server_is_told_to_continue_an_answer_that_has_begun() -> None:
    called = Message("assistant", tool_calls=(ToolCall("1", "look", "{}"),))
    for messages, told in (((HI, BEGUN), True), ((HI,), False), ((BEGUN,), False), ((HI, called), False)):
        _, fields = body(GenerationRequest(messages=messages), "m", Sampling(), (), "vLLM")
        assert ("continue_final_message" in fields) is told
        assert fields.get("add_generation_prompt", True) is not told


@pytest.mark.parametrize(
    ("forms", "structure", "fields"),
    [
        (LLAMA_FORMS, Structure("json"), {"json_schema": {"type": "object"}}),
        (LLAMA_FORMS, Structure("schema", '{"type": "null"}'), {"json_schema": {"type": "null"}}),
        (LLAMA_FORMS, Structure("choice", '["a", "say \\"b\\""]'), {"grammar": 'root ::= "a" | "say \\"b\\""'}),
        (LLAMA_FORMS, Structure("gbnf", "root ::= [a]"), {"grammar": "root ::= [a]"}),
        (VLLM_FORMS, Structure("json"), {"response_format": {"type": "json_object"}}),
        (VLLM_FORMS, Structure("regex", "a+"), {"structured_outputs": {"regex": "a+"}, "guided_regex": "a+"}),
        (VLLM_FORMS, Structure("choice", '["a"]'), {"structured_outputs": {"choice": ["a"]}, "guided_choice": ["a"]}),
        (VLLM_FORMS, Structure("gbnf", "g"), {"structured_outputs": {"grammar": "g"}, "guided_grammar": "g"}),
    ],
)
def test_server_is_asked_for_the_form_in_its_own_words(
    forms: FormFields, structure: Structure, fields: dict[str, JSON]
) -> None:
    request = GenerationRequest(messages=(HI,), structure=structure)
    _, value = body(request, "m", Sampling(), (), "A server", forms=forms)
    assert {name: value[name] for name in fields} == fields


def test_schema_reaches_an_openai_server_as_its_response_format() -> None:
    request = GenerationRequest(messages=(HI,), structure=Structure("schema", '{"type": "null"}'))
    _, value = body(request, "m", Sampling(), (), "A server", forms=VLLM_FORMS)
    assert value["response_format"]["json_schema"]["schema"] == {"type": "null"}


def test_form_that_a_server_has_no_word_for_is_refused() -> None:
    request = GenerationRequest(messages=(HI,), structure=Structure("regex", "a+"))
    with pytest.raises(
        NotSupported, match=r"llama.cpp holds no answer to a regex\. It takes: choice, gbnf, json, schema"
    ):
        body(request, "m", Sampling(), (), "llama.cpp")
