"""Conversations that every family's template is rendered with, here and by Hugging Face's own renderer."""

from __future__ import annotations

from dataclasses import dataclass

from exo_rkllm.backends.base import Message, Tool, ToolCall

WEATHER = Tool(
    "get_weather",
    "Weather of a city, now or later.",
    {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "The city's name"},
            "days": {"type": "integer"},
            "units": {"type": "string", "enum": ["metric", "imperial"]},
        },
        "required": ["city"],
    },
)
CLOCK = Tool("get_time", "The time.", {"type": "object", "properties": {}})

SYSTEM = Message("system", "You are terse.\nYou speak <b>plainly</b>.")
HELLO = Message("user", "  Hello, wie geht's? 你好 🙂 ")
FINE = Message("assistant", "Fine & well.\n\nAnd you?")
ASK = Message("user", "What's the weather in Tromsø?")
THOUGHT = Message("assistant", "It is 4 °C.", reasoning="They want\nthe weather.")
CALL = Message(
    "assistant", tool_calls=(ToolCall("call_1", "get_weather", '{"city": "Tromsø", "days": 2, "units": "metric"}'),)
)
RESULT = Message("tool", '{"temperature": 4}', tool_call_id="call_1", name="get_weather")


@dataclass(frozen=True, slots=True)
class Scenario:
    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    thinking: bool | None = None


SCENARIOS: dict[str, Scenario] = {
    "plain": Scenario((HELLO,)),
    "turns": Scenario((HELLO, FINE, ASK)),
    "system": Scenario((SYSTEM, HELLO, FINE, ASK)),
    "thinking": Scenario((SYSTEM, ASK), thinking=True),
    "no thinking": Scenario((SYSTEM, ASK), thinking=False),
    "thought before": Scenario((ASK, THOUGHT, HELLO)),
    "tools": Scenario((SYSTEM, ASK), (WEATHER, CLOCK)),
    "tools without system": Scenario((ASK,), (WEATHER,)),
    "called": Scenario((SYSTEM, ASK, CALL, RESULT), (WEATHER, CLOCK)),
    "called and answered": Scenario((ASK, CALL, RESULT, THOUGHT, HELLO), (WEATHER,)),
    "tools, no thinking": Scenario((SYSTEM, ASK), (WEATHER,), thinking=False),
}
