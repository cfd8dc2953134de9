"""Requests in the words of other servers, without one."""

from __future__ import annotations

from pathlib import Path

from exo_rkllm.backends.base import JSON, GenerationRequest, Message, Sampling, ToolCall
from exo_rkllm.backends.chat_body import body
from exo_rkllm.backends.openai import OpenAIEngine
from exo_rkllm.catalogue.card import Card
from exo_rkllm.catalogue.entry import Entry

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
